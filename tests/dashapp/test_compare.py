"""The Compare tab: what its charts hold, what a hand does in them, what its URLs say."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from dash import html

from dashapp import gestures
from dashapp.callbacks import draw_view
from dashapp.facts import Facts
from dashapp.pairs import MOST
from dashapp.state import CHOICES, defaults, from_url
from dashapp.views import VIEWS
from store import compare_queries as queries
from store.queries import Ask, head_values
from store.reader import open_store
from store.schema import IMPORTANCE
from store.selection import Heads, Selection
from tests.dashapp.elements import read
from tests.synthetic import MODELS, make_store

BY_ID = {view.id: view for view in VIEWS if view.tab == "compare"}
PLOTS = [name for name, view in BY_ID.items() if view.form == "plot"]
FAR_AWAY = "lasso=900,900,901,900,900,901%40alpha"
STATES = ["", "model=", "model=gamma", "model=beta&model=gamma", "label=cat", FAR_AWAY,
          "heads=0.1%40alpha&pin=2.0%40gamma", "pair=gamma&pair=alpha&label=dog", "over=each",
          "compared=cls_self&across=flip&up=sink&shade=taylor", "judged=accuracy&pruned=flip"]


def drawn(view: str, search: str, store, facts):
    state, problems = from_url("?tab=compare&" + search, facts)
    assert problems == []
    return draw_view(BY_ID[view], store, state, facts)


def figure(view: str, search: str, store, facts) -> dict:
    return drawn(view, search, store, facts).content


def unpacked(packed) -> np.ndarray:
    """An array as it travels: base64, or plain."""
    if not isinstance(packed, dict):
        return np.array(packed, float)
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
    return flat.reshape([int(n) for n in packed.get("shape", str(len(flat))).split(",")])


def told(content) -> str:
    """All that a panel says."""
    return json.dumps(content, default=lambda o: o.to_plotly_json(), ensure_ascii=False)


@pytest.mark.parametrize("search", STATES)
@pytest.mark.parametrize("view", PLOTS)
def test_every_figure_is_one_that_plotly_knows(view, search, store, facts):
    go.Figure(figure(view, search, store, facts))


def test_a_line_a_model_in_its_band(store, facts):
    made = figure("trends", "compared=sink&band=range", store, facts)
    rows = queries.trend(Ask(store, facts.names, Selection()), "sink").rows(store)
    lines = {t["meta"]["model"]: t for t in made["data"] if t["meta"].get("model")}
    bands = [t for t in made["data"] if t.get("fill")]
    assert list(lines) == list(facts.names)
    for model, band in zip(facts.names, bands, strict=True):
        own = [r for r in rows.to_pylist() if r["model"] == model]
        assert unpacked(lines[model]["y"]) == pytest.approx([r["mean"] for r in own], rel=1e-5)
        assert unpacked(band["y"]) == pytest.approx(
            [r["low"] for r in own] + [r["high"] for r in own[::-1]], rel=1e-5)
        assert unpacked(lines[model]["x"])[[0, -1]].tolist() == [0, 1]
    layers = figure("trends", "along=layer", store, facts)["data"][-1]
    assert unpacked(layers["x"]).tolist() == list(range(MODELS["gamma"]["layers"]))


def test_trends_say_who_has_no_such_measure(store, facts):
    made = drawn("trends", "compared=cls_self&heads=0.1,2.0%40alpha", store, facts)
    assert "Not defined for beta." in made.caption
    assert [t["name"] for t in made.content["data"] if t.get("mode") == "markers"] == ["alpha"]


def test_a_dot_per_head_over_two_measures(store, facts):
    made = figure("against", "across=sink&up=flip&heads=0.1%40alpha&pin=2.0%40beta", store, facts)
    alpha = made["data"][0]
    there = {(r["model"], r["layer"], r["head"]): r["value"] for r in head_values(
        Ask(store, ("alpha",), Selection()), "flip").rows(store).to_pylist()}
    assert {tuple(key): y for key, y in zip(alpha["customdata"], unpacked(alpha["y"]), strict=True)
            } == {key: pytest.approx(value) for key, value in there.items()}
    assert alpha["selectedpoints"] == [1]
    assert [s["name"] for s in made["layout"]["shapes"]] == ["opened", "pinned"]
    assert made["layout"]["xaxis"]["title"]["text"] == "sink (x uniform)"


def test_the_caption_holds_spearmans_rho(store, facts):
    caption = drawn("against", "model=alpha&across=probability&up=probability_drop", store,
                    facts).caption
    assert "ρ" in caption
    assert "● -1.00" in caption
    assert "No model has both measures." in drawn("against", "model=gamma&up=flip", store,
                                                  facts).caption


@pytest.mark.parametrize("shade", CHOICES["shade"])
def test_heads_are_coloured_by_anything(shade, store, facts):
    made = figure("against", f"shade={shade}", store, facts)
    go.Figure(made)
    assert ("coloraxis" in made["layout"]) == (shade != "model")


def test_heads_are_compared_by_two_models(store, facts):
    made = figure("matched", "pair=gamma&pair=alpha", store, facts)
    keys = [key for trace in made["data"] for key in trace["customdata"]]
    assert {(one[0], other[0]) for one, other in keys} == {("gamma", "alpha")}
    assert len(keys) == store.query(
        "SELECT count(other_layer) AS n FROM head_matches WHERE model = 'gamma' AND "
        "other_model = 'alpha'")["n"][0].as_py()
    assert all(facts.has_head(tuple(key)) for pair in keys for key in pair)
    assert "gamma" in made["layout"]["xaxis"]["title"]["text"]


def test_only_chosen_heads_of_the_pair_grey_the_others(store, facts):
    def chosen(search: str) -> list[bool]:
        made = figure("matched", "pair=alpha&pair=beta&" + search, store, facts)
        return ["selectedpoints" in trace for trace in made["data"]]

    assert any(chosen("heads=0.1%40alpha"))
    assert not any(chosen("heads=0.1%40gamma"))


def test_one_model_has_no_pairs(store, facts):
    assert "Two models on show are needed" in told(figure("matched", "model=beta", store, facts))
    assert "Two models on show are needed" in drawn("pairs", "model=beta", store, facts).caption


def test_pairs_are_listed_with_the_choice_of_models(store, facts):
    made = drawn("pairs", "compared=sink", store, facts)
    text = told(made.content)
    assert text.count('"tile pair') == MOST
    assert text.count("turn now") == 2
    assert "differ most in sink" in made.caption


def test_agreement_is_symmetrical_and_averaged(store, facts):
    made = figure("agreement", "model=alpha&model=beta", store, facts)
    (cells,) = made["data"]
    square = unpacked(cells["z"])
    assert square.shape == (15, 15)
    assert np.allclose(square, square.T, equal_nan=True)
    one, other = "js_divergence", "embedding_l2"
    names = [c.name for c in IMPORTANCE]
    values = [r["spearman"] for r in queries.measures_agree(
        Ask(store, ("alpha", "beta"), Selection())).rows(store).to_pylist()
        if {r["one"], r["other"]} == {one, other}]
    assert len(values) == 2
    place = names.index(one), names.index(other)
    assert square[place] == pytest.approx(np.mean(values), rel=1e-5)
    assert cells["customdata"][place[0]][place[1]] == [
        2, pytest.approx(min(values)), pytest.approx(max(values))]
    kendall = unpacked(figure("agreement", "model=alpha&coefficient=kendall", store,
                              facts)["data"][0]["z"])
    assert not np.allclose(kendall, square, equal_nan=True)


def test_agreement_of_each_model(store, facts):
    made = figure("ablated", "over=each", store, facts)
    assert [t["meta"]["model"] for t in made["data"]] == list(facts.names)
    assert unpacked(made["data"][0]["z"]).shape == (4, 4)
    without = drawn("ablated", "ranked=probability_drop", store, facts)
    assert "Without gamma." in without.caption
    assert "probability drop under more than one ablation" in told(figure(
        "ablated", "ranked=probability_drop&model=gamma", store, facts)).replace("<br>", " ")


def test_a_pane_of_curves_a_model(store, facts):
    made = figure("curves", "judged=embedding_l2&pruned=embedding_l2", store, facts)
    paths = [(t["meta"]["model"], t["meta"]["path"]) for t in made["data"] if "path" in t["meta"]]
    assert paths == [(m, p) for m in facts.names for p in ("most_first", "least_first")]
    assert all(unpacked(t["x"])[[0, -1]].tolist() == [0, 1] for t in made["data"]
               if "path" in t["meta"])
    assert "beats: least first" in made["layout"]["annotations"][0]["text"]
    caption = drawn("curves", "judged=agreement&pruned=flip", store, facts).caption
    assert "Without gamma." in caption


@pytest.mark.parametrize(("search", "says"), [
    ("model=gamma&judged=accuracy&pruned=embedding_l2", "embedding change"),
    (FAR_AWAY + "&judged=embedding_l2", "passes the filters")])
def test_why_there_is_no_curve(search, says, store, facts):
    assert says in told(figure("curves", search, store, facts)).replace("<br>", " ")


def test_two_heads_stand_side_by_side(store, facts):
    text = told(figure("pinned", "pin=2.0%40gamma&head=0.1%40alpha", store, facts))
    for part in ("Unpin", "Pin this one", "similarity", "hop entropy", "embedding change"):
        assert part in text
    assert text.count('"className": "picture') == 4
    assert "Pin it" in told(figure("pinned", "", store, facts))
    same = told(figure("pinned", "pin=2.0%40gamma&head=2.0%40gamma", store, facts))
    assert "It is the opened head too" in same
    assert "difference" not in same


def test_undefined_measures_are_not_listed(store, facts):
    text = told(figure("pinned", "pin=2.0%40gamma&head=1.0%40gamma", store, facts))
    assert "hop entropy" in text
    assert "flipped predictions" not in text


PIN = {"kind": "pin", "keys": ["2.0@gamma"]}


def test_a_head_is_pinned_and_released(facts):
    start = defaults(facts)
    pinned = gestures.apply(start, PIN, facts)
    assert pinned == replace(start, pin=("gamma", 2, 0))
    assert gestures.apply(pinned, {"kind": "pin"}, facts) == start
    assert gestures.apply(pinned, {"kind": "pin", "keys": ["9.9@gamma"]}, facts) == pinned


def test_the_pair_is_chosen_and_turned(facts):
    start = defaults(facts)
    assert start.paired == ("alpha", "beta")
    state = gestures.apply(start, {"kind": "pair", "models": ["gamma", "beta"]}, facts)
    assert state.paired == state.pair == ("gamma", "beta")
    turned = gestures.apply(state, {"kind": "pair", "models": ["beta", "beta"]}, facts)
    assert turned.paired == ("beta", "gamma")
    assert replace(state, models=("alpha", "beta")).paired == ("alpha", "beta")
    assert replace(state, models=("gamma",)).paired is None


@pytest.mark.parametrize("models", [None, [], ["alpha"], ["alpha", "nope"], ["alpha", ["beta"]],
                                    ["alpha", "beta", "gamma"]])
def test_a_pair_that_is_none_changes_nothing(facts, models):
    assert gestures.apply(defaults(facts), {"kind": "pair", "models": models}, facts) \
        == defaults(facts)


@pytest.mark.parametrize("changes", [
    {"pin": ("gamma", 2, 3)}, {"pair": ("gamma", "alpha")},
    {"pin": ("beta", 0, 0), "pair": ("beta", "gamma"), "tab": "compare", "up": "sink",
     "selection": Selection().with_(Heads((("alpha", 0, 1),)))}], ids=str)
def test_round_trip(facts, changes):
    start = replace(defaults(facts), **changes)
    assert from_url(start.to_url(facts), facts) == (start, [])


@pytest.mark.parametrize(("search", "says"), [
    ("?pin=9.0%40alpha", "pin 9.0"), ("?pin=zzz", "pin 'zzz'"), ("?pair=alpha", "pair 'alpha'"),
    ("?pair=alpha&pair=alpha", "pair"), ("?pair=alpha&pair=nope", "pair"),
    ("?pair=alpha&pair=beta&pair=gamma", "pair"), ("?shade=red", "shade"), ("?up=", "up")])
def test_hostile_urls_are_mended_and_said(facts, search, says):
    found, problems = from_url(search, facts)
    assert says in " ".join(problems)
    assert from_url(found.to_url(facts), facts) == (found, [])
    assert (found.pin, found.pair) == (None, None)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A store whose models have names that are markup and hover templates."""
    shapes = dict(zip(("<b>one</b>", "%{x} & two"), list(MODELS.values())[:2], strict=True))
    return open_store(make_store(tmp_path_factory.mktemp("odd") / "atlas", 12, shapes))


@pytest.mark.parametrize("view", PLOTS)
def test_names_are_never_markup(view, odd):
    facts = Facts.read(odd)
    state = replace(defaults(facts), tab="compare", over="each")
    made = draw_view(BY_ID[view], odd, state, facts)
    parts = [made.content["layout"], *made.content["data"]]
    seen = json.dumps([{k: v for k, v in part.items() if k not in ("meta", "customdata")}
                       for part in parts], default=str)
    assert "one" in seen
    assert "<b>one" not in seen
    assert "%{x} & two" not in seen


def test_panels_hold_names_as_text(odd):
    facts = Facts.read(odd)
    state = replace(defaults(facts), tab="compare", pin=("<b>one</b>", 0, 0))
    content = draw_view(BY_ID["pinned"], odd, state, facts).content
    assert all(isinstance(part, html.Div) for part in read(content))
    assert "<b>one</b>" in told(content)
