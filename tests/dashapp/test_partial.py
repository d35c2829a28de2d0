"""B2 and B3: partial pruning."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest

from dashapp import gestures
from dashapp.callbacks import draw_view
from dashapp.figures import partial as figures
from dashapp.state import defaults, from_url
from dashapp.views import VIEWS
from precompute.ablation import part
from precompute.anatomy import Geometry
from store.partial_queries import QUANTITIES, TABLE
from store.schema import MODES
from tests.dashapp.elements import read
from tests.synthetic import SAMPLE, make_rows

BY_ID = {view.id: view for view in VIEWS}
HEADS = "heads=0.1,5.3%40alpha&heads=2.0%40beta"
IMAGES = list(range(0, 60, 60 // SAMPLE))
"""Those with partial pruning in the synthetic store."""


def drawn(view: str, search: str, store, facts):
    state, problems = from_url(search, facts)
    assert problems == []
    made = draw_view(BY_ID[view], store, state, facts)
    return made if BY_ID[view].form == "plot" else replace(made, content=read(made.content))


def groups(figure) -> dict[str, list]:
    """The heights of the bars by name."""
    return {t["name"]: t["y"] for t in figure["data"] if t["type"] == "bar"}


def words(content) -> str:
    """All text of elements."""
    if isinstance(content, list | tuple):
        return " ".join(map(words, content))
    children = getattr(content, "children", content)
    return words(children) if children is not content else str(content or "")


def elements(content, name: str) -> list:
    """The elements of this class."""
    if isinstance(content, list | tuple):
        return [found for one in content for found in elements(one, name)]
    own = [content] if name in (getattr(content, "className", None) or "").split() else []
    children = getattr(content, "children", None)
    return own + (elements(children, name) if children is not None else [])


def test_every_mode_is_drawn_as_what_it_removes():
    assert list(figures.DRAWN) == list(MODES)
    grid = Geometry(2, 2, 1, True)
    for mode, one in figures.DRAWN.items():
        removed = [[bool(one.removes(q, k)) for k in range(5)] for q in range(5)]
        assert removed == part(grid, mode).tolist(), mode


@pytest.mark.parametrize("mode", MODES)
def test_little_matrices_have_one_size_and_the_mode_in_ink(mode):
    drawing = base64.b64decode(figures.picture(mode).partition(",")[2]).decode()
    paths = re.findall(r'd="([^"]*)"', drawing)
    half = figures.SIDE // 2
    numbers = {int(n) for path in paths for n in re.findall(r"-?\d+", path)}
    assert (min(numbers), max(numbers)) == (-half, half)
    cells = sum(figures.DRAWN[mode].removes(q, k) for q in range(5) for k in range(5))
    assert paths[2].count("M") == cells if cells else len(paths) == 3 and not paths[2]


@pytest.mark.parametrize("left", QUANTITIES)
@pytest.mark.parametrize("search", ["", HEADS, HEADS + "&image=12", "model=alpha&mode=cls_row",
                                    "label=dog&model=beta"])
def test_plotly_accepts_the_figure(store, facts, search, left):
    figure = drawn("partial", f"?{search}&left={left}", store, facts).content
    checked = go.Figure(figure)
    assert checked.layout.yaxis.title.text == TABLE.column(left).title


@pytest.mark.parametrize(("search", "said"), [
    ("label=cat", "No image with partial pruning passes the filters."),
    ("model=gamma&left=probability", "gamma has no classifier: choose the embedding change."),
])
def test_an_empty_chart_says_why(store, facts, search, said):
    figure = go.Figure(drawn("partial", f"?{search}", store, facts).content)
    assert said in sentence(figure)


def sentence(figure: go.Figure) -> str:
    return " ".join(a.text.replace("<br>", " ") for a in figure.layout.annotations)


def test_bars_are_the_values_of_the_focused_image(store, facts):
    made = drawn("partial", f"?{HEADS}&image=12&left=js_divergence", store, facts)
    found = groups(made.content)
    assert list(found) == ["alpha 0.1", "alpha 5.3", "beta 2.0"]
    rows = store.query("SELECT mode, js_divergence AS v FROM partial_pruning WHERE model = 'alpha' "
                       "AND layer = 5 AND head = 3 AND image = 12").to_pylist()
    assert dict(zip(MODES, found["alpha 5.3"], strict=True)) == pytest.approx(
        {r["mode"]: r["v"] for r in rows})
    assert [v is None for v in found["beta 2.0"]] == [m.startswith("cls") for m in MODES]
    assert made.caption.startswith("Image 12.")
    assert "No class token in beta" in made.caption
    errors = [t["error_y"]["array"] for t in made.content["data"] if t["type"] == "bar"]
    assert all(v is None for own in errors for v in own)


def test_without_a_focused_image_it_says_over_how_many(store, facts):
    caption = drawn("partial", f"?{HEADS}", store, facts).caption
    assert f"Mean over the {len(IMAGES)} images with partial pruning." in caption
    dogs = [i for i in IMAGES if i % 4 == 2]
    caption = drawn("partial", f"?{HEADS}&label=dog&image=1", store, facts).caption
    assert caption.startswith("Image 1 has no partial pruning. Mean over "
                              f"{len(dogs)} of the {len(IMAGES)} images")


def test_without_chosen_heads_each_model_shows_the_one_that_matters_most(store, facts):
    made = drawn("partial", "", store, facts)
    assert "alpha 0.1" in groups(made.content)
    assert "(probability drop, all images)" in drawn(
        "partial", "?model=alpha&importance=probability_drop", store, facts).caption
    assert "gamma has no classifier" in drawn(
        "partial", "?left=probability", store, facts).caption


def test_the_unpruned_value_is_a_dashed_line_for_each_model(store, facts):
    figure = drawn("partial", f"?{HEADS}&image=12&left=probability", store, facts).content
    lines = [s for s in figure["layout"]["shapes"] if s["type"] == "line"]
    assert [s["y0"] for s in lines] == pytest.approx([0.9, 0.9])
    assert len({s["line"]["color"] for s in lines}) == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_chosen_mode_stands_out(store, facts, mode):
    layout = drawn("partial", f"?{HEADS}&mode={mode}", store, facts).content["layout"]
    place = list(MODES).index(mode)
    bold = [i for i, text in enumerate(layout["xaxis"]["ticktext"]) if text.startswith("<b>")]
    band = [s for s in layout["shapes"] if s["type"] == "rect"]
    assert (bold, [(s["x0"] + s["x1"]) / 2 for s in band]) == ([place], [place])
    pieces = {i: sum(s.get("xanchor") == i for s in layout["shapes"]) for i in range(len(MODES))}
    assert pieces[place] == 5 - (mode == "none")


def test_bars_and_matrices_know_their_modes(store, facts):
    """What a click needs: the mode at each place, also where no bar is."""
    figure = drawn("partial", f"?{HEADS}", store, facts).content
    assert all(t["meta"]["modes"] == list(MODES) for t in figure["data"])
    (handles,) = [t for t in figure["data"] if t["type"] == "scatter"]
    assert handles["x"] == list(range(len(MODES)))
    for mode, text in zip(MODES, handles["text"], strict=True):
        assert text.replace("<br>", " ") == f"set to 0: {MODES[mode]}"


def test_a_click_chooses_the_mode(facts):
    start = defaults(facts)
    assert gestures.apply(start, {"kind": "mode", "mode": "cls_row"}, facts) == replace(
        start, mode="cls_row")
    for odd in ("sideways", None, 3, ["cls"]):
        assert gestures.apply(start, {"kind": "mode", "mode": odd}, facts) == start


def test_predictions_of_the_focused_image_beside_the_unpruned(store, facts):
    made = drawn("predictions", f"?{HEADS}&image=12&mode=patches", store, facts)
    pairs = elements(made.content, "pair")
    assert len(pairs) == 3
    for pair, key in zip(pairs, (("alpha", 0, 1), ("alpha", 5, 3), ("beta", 2, 0)), strict=True):
        (before, after) = elements(pair, "bar-value")
        rows = store.query(
            "SELECT mode, top5[1].probability AS p FROM partial_pruning WHERE image = 12 AND model "
            "= ? AND layer = ? AND head = ?", list(key)).to_pylist()
        values = {row["mode"]: row["p"] for row in rows}
        assert words(before) == f"{values['none']:.3f}"
        assert words(after) == f"{values['patches']:.3f}"
        (tick,) = elements(pair, "tick")
        assert tick.style["left"] == f"{100 * values['none']:.1f}%"
    assert made.caption.startswith("Image 12. Bold: its label, bird.")
    assert {words(one) for one in elements(made.content, "right")} == {"bird"}


def test_predictions_without_a_class_token_or_without_a_change(store, facts):
    made = drawn("predictions", f"?{HEADS}&mode=cls", store, facts).content
    assert words(made).count("not defined: no class token") == 1
    made = drawn("predictions", f"?{HEADS}&mode=none", store, facts)
    assert len(elements(made.content, "mode-name")) == 3
    assert "Tick" not in made.caption


def test_predictions_are_of_four_heads_at_most_and_of_models_with_classes(store, facts):
    many = "heads=0.0,0.1,0.2,0.3,1.0,1.1%40alpha"
    made = drawn("predictions", f"?{many}", store, facts)
    assert len(elements(made.content, "pair")) == 4
    assert "The first 4 of 6 chosen heads." in made.caption
    alone = drawn("predictions", "?model=gamma", store, facts)
    assert "gamma: no classifier, see the embedding change in B2." in words(alone.content)
    assert "gamma: no classifier" in drawn("predictions", "", store, facts).caption


def test_images_with_partial_pruning_are_there_to_click(store, facts):
    made = drawn("predictions", f"?{HEADS}&image=12", store, facts).content
    tiles = [one.to_plotly_json()["props"] for one in elements(made, "measured")[0].children[1]
             .children if type(one).__name__ == "Button"]
    assert [int(t["data-focus"]) for t in tiles] == IMAGES[:12]
    assert [int(t["data-focus"]) for t in tiles if t["className"] == "now"] == [12]


@pytest.mark.parametrize("label", ["dog", "cat"])
def test_a_class_that_a_list_lacks_makes_a_lower_bound(tmp_path, facts, label):
    """Image 0 lists two classes, image 1 one of them."""
    lists = {0: {"cat": 0.75, "<b>dog": 0.25}, 1: {"cat": 0.5}}
    rows = [{"model": "alpha", "image": i, "layer": 0, "head": 0, "mode": mode,
             "probability": 0.5, "js_divergence": 0.0, "embedding_l2": 0.0, "top5": [
                 {"class": n, "name": name, "probability": p}
                 for n, (name, p) in enumerate(top.items())]}
            for i, top in lists.items() for mode in ("none", "head")]
    store = make_rows(tmp_path / "lists", partial_pruning=rows, images=[
        {"image": i, "path": f"{i}", "label": label} for i in lists])
    made = drawn("predictions", "?heads=0.0%40alpha", store, facts)
    assert [words(v) for v in elements(made.content, "bar-value")] == ["0.625", "≥ 0.125"] * 2
    assert "a lower bound (≥)" in made.caption
    assert "lower bound" not in drawn(
        "predictions", "?heads=0.0%40alpha&image=0", store, facts).caption


def test_names_are_never_markup(store, facts):
    odd = "<img src=x>%{y}"
    model = replace(facts.models[0], name=odd)
    rows = {(odd, 0, 1, mode): {"value": 0.5, "low": None, "high": None, "images": 1}
            for mode in MODES}
    series = figures.Series(model, 0, 1, "#000000", "solid")
    sent = str(figures.bars(rows, [series], TABLE.column("probability"), "head")["data"])
    assert "<img" not in sent
    assert "%{y}" not in sent


def test_nothing_is_said_in_words(tmp_path, facts):
    store = make_rows(tmp_path / "none", images=[{"image": 0, "path": "0"}])
    made = drawn("partial", "?heads=0.0%40alpha", store, facts)
    assert "No partial pruning of alpha in this store" in sentence(go.Figure(made.content))
    made = drawn("predictions", "?heads=0.0%40alpha", store, facts)
    assert "No partial pruning of alpha in this store" in words(made.content)
