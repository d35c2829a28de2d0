"""The server: what it answers, and what it must never load or show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashapp.app import create_app
from dashapp.facts import Live
from dashapp.views import VIEWS
from store import places
from store.writer import StoreWriter
from tests.synthetic import MODELS, make_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(path):
    return create_app(path).server.test_client()


def dash_call(client, output: str, inputs: list[dict], states: list[dict] = (), changed=()):
    outputs = [dict(zip(("id", "property"), o.rsplit(".", 1), strict=True))
               for o in output.strip(".").split("...")]
    return client.post("/_dash-update-component", json={
        "output": output, "outputs": outputs, "inputs": inputs, "state": list(states),
        "changedPropIds": list(changed)})


@pytest.mark.parametrize(("url", "kind"), [
    ("/", "text/html"), ("/_dash-layout", "application/json"), ("/healthz", "text/plain"),
    ("/_dash-dependencies", "application/json"), ("/thumbnail/3", "image/webp"),
    ("/rows/layers.csv?model=alpha", "text/csv"), ("/rows/line/baselines.csv", "text/csv"),
    ("/rows/overview.csv?lasso=xx&model=nope&label=%00", "text/csv")])
def test_answers(client, url, kind):
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.content_type.startswith(kind)


@pytest.mark.parametrize("url", ["/thumbnail/60", "/thumbnail/-1", "/thumbnail/x",
                                 "/rows/nope.csv", "/rows/line/nope.csv", "/rows/../x.csv"])
def test_what_is_not_there(client, url):
    answer = client.get(url)
    assert answer.status_code == 404 or answer.content_type.startswith("text/html")
    assert b"Traceback" not in answer.data


def test_csv_follows_the_url(client):
    rows = client.get("/rows/layers.csv?model=alpha").text.splitlines()
    assert rows[0] == '"model","layer","head","value","low","high","images"'
    assert len(rows) == 1 + 24


def test_the_page_names_no_other_host(client):
    for url in ("/", "/_dash-layout"):
        text = client.get(url).text.replace("http://www.w3.org", "")
        assert "http://" not in text
        assert "https://" not in text


def make_state(client, search: str, trigger: str = "url.search", **values):
    dependencies = client.get("/_dash-dependencies").json
    (own,) = [d for d in dependencies if d["output"].startswith("..state.data...url")]
    inputs = [{**i, "value": {"url.search": search}.get(f"{i['id']}.{i['property']}",
                                                        values.get(i["id"]))}
              for i in own["inputs"]]
    states = [{**s, "value": values.get(s["id"])} for s in own["state"]]
    return dash_call(client, own["output"], inputs, states, [trigger])


@pytest.mark.parametrize("search", ["", "?model=nope", "?lasso=,,,&heads=@&image=abc",
                                    "?" + "%00" * 500, "?model=%3Cscript%3E", "?" + "a" * 80_000])
def test_hostile_urls_give_a_clean_page(client, search):
    answer = make_state(client, search)
    assert answer.status_code == 200
    made = answer.json["response"]
    assert made["state"]["data"].startswith("?")
    assert ("message" in made) == (search not in ("", "?" + "%00" * 500))
    assert "Traceback" not in answer.text


def test_a_gesture_makes_a_new_state_and_url(client):
    answer = make_state(client, "?model=alpha", "gesture.data", state="?model=alpha", gesture=[
        {"kind": "heads", "op": "toggle", "heads": [["alpha", 0, 1]], "n": 1}])
    made = answer.json["response"]
    assert made["state"]["data"] == made["url"]["search"] == "?model=alpha&heads=0.1%40alpha"


SENSELESS = {"kind": "heads", "heads": [["one too", "few"]], "n": 1}


def test_a_gesture_that_fails_is_said_and_does_not_stand_in_the_way(client):
    answer = make_state(client, "", "gesture.data", state="?", gesture=[
        SENSELESS, {"kind": "focus", "image": 3, "n": 2}])
    assert answer.status_code == 200
    made = answer.json["response"]
    assert "Something went wrong" in made["message"]["children"]
    assert "image=3" in made["state"]["data"]
    assert made["answered"]["data"]["n"] == 2
    assert "Traceback" not in answer.text


def test_an_error_in_a_callback_is_shown_in_the_page(client):
    answer = make_state(client, "", "gesture.data", state="?", gesture="no list")
    assert answer.status_code == 200
    assert "Something went wrong" in answer.json["sideUpdate"]["message"]["children"]
    assert "Traceback" not in answer.text


def test_what_no_answer_took_in_is_done_with_the_next(client):
    """Dash drops an answer that the next act of the page overtakes."""
    done = [{"kind": "heads", "op": "toggle", "heads": [["alpha", 0, head]], "n": head}
            for head in (1, 2)]
    first = make_state(client, "?model=alpha", "gesture.data", state="?model=alpha",
                       gesture=done[:1])
    told = first.json["response"]["answered"]["data"]
    shown = told["shown"]
    dropped = make_state(client, "?model=alpha", "gesture.data", state="?model=alpha", gesture=done,
                         **shown, answered={"n": 0, "shown": shown})
    assert "heads=0.1%2C0.2%40alpha" in dropped.json["response"]["state"]["data"]
    heard = make_state(client, "", "gesture.data", gesture=done, **shown, answered=told,
                       state=first.json["response"]["state"]["data"])
    assert heard.json["response"]["state"] == dropped.json["response"]["state"]
    assert heard.json["response"]["answered"]["data"] == {"n": 2, "shown": shown}


def test_a_control_that_no_answer_took_in_is_heard_with_the_next(client):
    told = make_state(client, "?model=alpha").json["response"]["answered"]["data"]
    answer = make_state(client, "?model=alpha", "gesture.data", state="?model=alpha", answered=told,
                        gesture=[{"kind": "focus", "image": 3, "n": 1}],
                        **{**told["shown"], "outcome": "any_wrong"})
    url = answer.json["response"]["state"]["data"]
    assert "outcome=any_wrong" in url
    assert "image=3" in url


def layout_of(path: Path) -> str:
    return create_app(path).server.test_client().get("/_dash-layout").text


def test_an_empty_store_says_what_to_do(tmp_path):
    StoreWriter(tmp_path / "empty")
    assert "headatlas precompute" in layout_of(tmp_path / "empty")


def test_an_unfinished_model_is_named_and_not_shown(tmp_path):
    path = make_store(tmp_path / "atlas", 4, {"alpha": MODELS["alpha"]})
    (path / "models" / places.slug("alpha") / "heads.parquet").unlink()
    text = layout_of(path)
    assert "no finished model" in text
    assert "alpha" in text


def test_a_store_that_is_gone_is_said(tmp_path):
    text = layout_of(tmp_path / "nowhere")
    assert "cannot be shown" in text
    assert "nowhere" in text


def test_a_growing_store_shows_its_new_model(tmp_path, monkeypatch):
    monkeypatch.setattr("dashapp.facts.REFRESH_SECONDS", 0.0)
    path = make_store(tmp_path / "atlas", 4, {"alpha": MODELS["alpha"]})
    live = Live(path)
    assert live.now()[1].names == ("alpha",)
    other = make_store(tmp_path / "other", 4, {"beta": MODELS["beta"]})
    (other / "models" / "beta").rename(path / "models" / "beta")
    assert live.now()[1].names == ("alpha", "beta")


def test_one_image_without_label(tmp_path):
    path = make_store(tmp_path / "atlas", 1, {"alpha": MODELS["alpha"]})
    for file in (path / "images").glob("*.parquet"):
        table = pq.read_table(file)
        place = table.schema.get_field_index("label")
        pq.write_table(table.set_column(place, "label", pa.nulls(len(table), pa.string())), file)
    _, facts = Live(path).now()
    assert (facts.images, facts.labels) == (1, ())
    client = create_app(path).server.test_client()
    for view in (view.id for view in VIEWS):
        assert client.get(f"/rows/{view}.csv?image=0").status_code == 200


FORBIDDEN = ("torch", "timm", "pandas", "sklearn", "precompute", "plotly.express")

SERVE_ALL = f"""
import sys
from dashapp.app import create_app
from dashapp.callbacks import draw_view
from dashapp.facts import Live
from dashapp.views import VIEWS
from dashapp.state import from_url
from dashapp.views import VIEWS
from pathlib import Path
client = create_app(sys.argv[1]).server.test_client()
assert client.get("/_dash-layout").status_code == 200
store, facts = Live(Path(sys.argv[1])).now()
for search in ("", "?label=cat&heads=0.1%40alpha&image=3&marks=thumbnails"):
    for view in VIEWS:
        draw_view(view, store, from_url(search, facts)[0], facts)
print([name for name in {FORBIDDEN!r} if name in sys.modules])
"""


def test_serving_loads_no_torch_and_no_pandas(path):
    done = subprocess.run([sys.executable, "-c", SERVE_ALL, str(path)], capture_output=True,
                          text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_figures_are_plain_data():
    """Plotly's classes check each property of a figure, which takes longer than the question."""
    sources = {path: path.read_text() for path in (ROOT / "dashapp").rglob("*.py")}
    assert len(sources) > 20
    assert [path.name for path, text in sources.items()
            if "graph_obj" in text or "import plotly" in text or "from plotly" in text] == []


def test_the_figures_are_small(client):
    """The whole page of the synthetic store, as data."""
    total = 0
    for dependency in client.get("/_dash-dependencies").json:
        if dependency["output"].startswith(("..plot-data-", "..panel-data-")):
            answer = dash_call(client, dependency["output"],
                               [{"id": "state", "property": "data", "value": "?"}],
                               [{**s, "value": None} for s in dependency["state"]], ["state.data"])
            if answer.status_code == 204:
                continue  # the views of another tab
            assert answer.status_code == 200, answer.text
            json.loads(answer.text)
            total += len(answer.data)
    assert 20_000 < total < 500_000
