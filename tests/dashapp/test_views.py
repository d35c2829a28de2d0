"""Every view draws for every kind of state: numbers where they belong, words where none are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from plotly.utils import PlotlyJSONEncoder

from dashapp import chart
from dashapp.callbacks import draw_view
from dashapp.figures import heads as head_figures
from dashapp.figures import overview as overview_figures
from dashapp.figures.strength import series_of
from dashapp.state import CHOICES, from_url
from dashapp.views import VIEWS
from store import queries
from store.queries import Ask
from store.schema import measure
from store.selection import Selection
from tests.dashapp import elements
from tests.dashapp.figures import read

BY_ID = {view.id: view for view in VIEWS}
PLOTS = [view.id for view in VIEWS if view.form == "plot"]
FAR_AWAY = "lasso=900,900,901,900,900,901%40alpha"
STATES = [
    "", "?model=alpha", "?model=gamma", "?model=", "?label=cat", "?" + FAR_AWAY,
    "?heads=0.1%40alpha&heads=0.0,3.5%40gamma", "?heads=0.1%40alpha&model=beta",
    "?image=3&label=dog&heads=1.1%40beta", "?outcome=all_wrong&axis=depth&image=0",
    "?heads=" + ",".join(f"{a}.{b}" for a in range(6) for b in range(4)) + "%40alpha",
    "?head=2.1%40gamma&query=7&weights=0.01,0.2&looks=from", "?head=0.0%40beta&image=50",
    *(f"?model=gamma&colour={c}&label=cat" for c in CHOICES["colour"]),
]

CASES = [(view, search) for view in BY_ID for search in STATES] + [
    (view.id, f"?{key}={value}&heads=0.1%40alpha") for view in VIEWS
    for key, values in CHOICES.items() if key in view.reads for value in values]
"""Every view in every state, and under every choice that it reads."""


def sent(view: str, search: str, store, facts):
    """What travels to the page."""
    state, problems = from_url(search, facts)
    assert problems == []
    return draw_view(BY_ID[view], store, state, facts)


def drawn(view: str, search: str, store, facts):
    """What the page shows; figures as Plotly's, so a property that it does not know fails."""
    made = sent(view, search, store, facts)
    return made if BY_ID[view].form == "panel" else replace(made, content=read(made.content))


@pytest.mark.parametrize(("view", "search"), CASES)
def test_every_view_draws_every_state(view, search, store, facts):
    made = sent(view, search, store, facts)
    text = json.dumps(made.content, cls=PlotlyJSONEncoder)
    assert 20 < len(text) < 400_000
    if BY_ID[view].form == "plot":
        read(made.content)
        assert made.caption or made.content["layout"]["annotations"]
    else:
        elements.read(made.content)


NAMED_BY_TICKS = ("agreement", "ablated")
PLACES_WITHOUT_UNIT = ("overview", "map", "look")


@pytest.mark.parametrize("view", [v for v in PLOTS
                                  if v not in NAMED_BY_TICKS + PLACES_WITHOUT_UNIT])
def test_axes_have_titles(view, store, facts):
    figure = drawn(view, "?image=2", store, facts).content
    titles = [figure.layout[name].title.text for name in ("xaxis", "yaxis")]
    assert all(titles), titles


def traces(figure, **meta):
    return [t for t in figure.data if t.meta and all(t.meta.get(k) == v for k, v in meta.items())]


def test_the_matrix_holds_the_means(store, facts):
    figure = drawn("matrix", "?model=alpha&label=cat", store, facts).content
    (cells,) = traces(figure, grid=True)
    assert np.shape(cells.z) == (6, 4)
    assert cells.z[0][1] == pytest.approx(0.6, abs=0.01)
    title = figure.layout.coloraxis.colorbar.title.text.replace("<br>", " ").strip()
    assert title == measure("probability_drop").title


def test_what_is_not_defined_is_said(store, facts):
    figure = drawn("matrix", "?importance=probability_drop", store, facts).content
    said = [a.text.replace("<br>", " ") for a in figure.layout.annotations]
    assert any("gamma has no classifier: choose an embedding measure" in s for s in said)
    (gamma,) = traces(figure, model="gamma")
    assert np.isnan(gamma.z).all()
    assert gamma.hovertemplate.endswith("probability drop: not defined<extra></extra>")
    assert "gamma" in drawn("line", "?importance=probability_drop", store, facts).caption


def test_chosen_heads_are_outlined_and_the_others_veiled(store, facts):
    figure = drawn("matrix", "?heads=0.1%40alpha", store, facts).content
    assert [s.path for s in figure.layout.shapes] == ["M0.5,-0.5H1.5V0.5H0.5Z"]
    assert len([t for t in figure.data if t.type == "heatmap"]) == 6


def test_the_line_starts_at_the_unpruned_model(store, facts):
    figure = drawn("line", "?model=alpha&importance=probability", store, facts).content
    (curve,) = traces(figure, model="alpha")
    expected = np.mean(store.query("SELECT probability FROM predictions WHERE model = 'alpha'")
                       ["probability"].to_numpy())
    assert curve.x[0] == 0
    assert curve.y[0] == pytest.approx(expected)
    assert len(curve.x) == 1 + 6 * 4
    assert [s.y0 for s in figure.layout.shapes if s.line.dash == "dash"] == [
        pytest.approx(expected)]


@pytest.mark.parametrize(("name", "start"), [("probability_drop", 0.0), ("js_divergence", 0.0),
                                             ("confidence", math.nan), ("direct_logit", math.nan)])
def test_the_baseline_of_other_measures(store, facts, name, start):
    (curve,) = traces(drawn("line", f"?model=alpha&importance={name}", store, facts).content,
                      model="alpha")
    assert curve.y[0] == pytest.approx(start, nan_ok=True)


def test_relative_depth_lines_models_up(store, facts):
    figure = drawn("line", "?axis=depth", store, facts).content
    for model in facts.names:
        (curve,) = traces(figure, model=model)
        assert (curve.x[0], curve.x[-1]) == (0, 1)


def test_filtered_images_are_greyed_not_dropped(store, facts):
    figure = drawn("overview", "?label=cat", store, facts).content
    for trace in traces(figure):
        if trace.meta.get("model"):
            assert len(trace.x) == 60
            assert list(trace.selectedpoints) == list(range(1, 60, 4))


def test_a_filter_that_selects_nothing(store, facts):
    figure = drawn("overview", "?" + FAR_AWAY, store, facts).content
    assert all(list(t.selectedpoints) == [] for t in traces(figure) if t.meta.get("model"))


def test_a_lasso_far_away_does_not_move_the_axes(store, facts):
    near = drawn("overview", "?label=cat", store, facts).content
    far = drawn("overview", "?" + FAR_AWAY, store, facts).content
    assert near.layout.xaxis.range == far.layout.xaxis.range
    assert far.layout.xaxis.range[1] < 100


def test_the_focused_image_is_marked_in_every_overview(store, facts):
    figure = drawn("overview", "?image=3", store, facts).content
    assert len([s for s in figure.layout.shapes if s.name == "focus"]) == 3


def test_thumbnails_are_links_to_this_server(store, facts):
    figure = drawn("overview", "?marks=thumbnails", store, facts).content
    assert len(figure.layout.images) == 180
    assert all(i.source.startswith("thumbnail/") for i in figure.layout.images)


def test_the_maximum_of_hop_entropy_is_drawn(store, facts):
    figure = drawn("layers", "", store, facts).content
    assert sorted(s.y0 for s in figure.layout.shapes) == [
        pytest.approx(math.log(k)) for k in (7, 8, 14)]
    assert len(drawn("layers", "?strength=sink", store, facts).content.layout.shapes) == 0


def test_hops_are_shares_of_the_side_where_grids_differ(store, facts):
    figure = drawn("hops", "", store, facts).content
    assert max(max(t.x) for t in figure.data) < 1
    assert "share of side" in figure.layout.xaxis.title.text
    assert max(max(t.x) for t in drawn("hops", "?hops=hop", store, facts).content.data) == 13


def test_strength_follows_the_chosen_heads(store, facts):
    named = [t.name for t in drawn("distribution", "?heads=0.1,2.3%40alpha", store,
                                   facts).content.data]
    assert named == ["alpha 0.1", "alpha 2.3"]


def test_histograms_sum_to_one_and_mark_the_focused_image(store, facts):
    figure = drawn("distribution", "?heads=0.1%40alpha&image=3", store, facts).content
    (steps,) = figure.data
    assert sum(steps.y[:-1]) == pytest.approx(1)
    value = store.query("SELECT hop_entropy FROM head_strength WHERE model = 'alpha' AND "
                        "layer = 0 AND head = 1 AND image = 3")["hop_entropy"][0].as_py()
    assert [s.x0 for s in figure.layout.shapes] == [pytest.approx(value)]


def test_heads_of_one_model_can_be_told_apart(facts):
    keys = tuple(("alpha", layer, head) for layer in range(2) for head in range(4))
    looks = {(s.colour, s.dash) for s in series_of(list(facts.models), keys)}
    assert len(looks) == len(keys)


@pytest.mark.parametrize("view", ["line", "layers", "map"])
def test_a_mark_of_a_head_says_which_head_it_is(view, store, facts):
    figure = drawn(view, "?model=gamma&model=alpha", store, facts).content
    for model in ("alpha", "gamma"):
        (marks,) = traces(figure, model=model)
        heads = [(layer, head) for layer, head in marks.customdata[:, :2].tolist()
                 if not math.isnan(layer)]
        wide = facts.model(model).heads
        assert heads == [divmod(i, wide) for i in range(facts.model(model).layers * wide)]


def test_hovering_a_head_tells_its_value_interval_and_images(store, facts):
    figure = drawn("matrix", "?model=alpha&importance=flip", store, facts).content
    (cells,) = traces(figure, grid=True)
    (row,) = store.query("SELECT flip_mean, flip_low, flip_high, images FROM heads WHERE model = "
                         "'alpha' AND layer = 2 AND head = 3").to_pylist()
    assert (cells.z[2][3], *cells.customdata[2][3]) == pytest.approx(
        (row["flip_mean"], 2, 3, row["flip_low"], row["flip_high"], row["images"]))
    told = cells.hovertemplate
    assert told.startswith("<b>alpha</b> layer %{customdata[0]}, head %{customdata[1]}<br>flip")
    assert "95 % interval %{customdata[2]" in told
    assert "mean over %{customdata[4]" in told


def test_heads_without_a_value_are_told_apart(facts):
    model = facts.model("alpha")
    rows = pa.table({"model": ["alpha"] * 3, "layer": [0, 0, 1], "head": [0, 1, 3],
                     "value": [0.5, None, 0.25], "low": [0.4, None, None],
                     "high": [0.6, None, None], "images": [3, 3, None]})
    cells = read({"data": [head_figures._cells(head_figures.Values(rows), model, measure("flip"),
                                               "")], "layout": {}}).data[0]
    texts = cells.hovertemplate
    assert np.shape(texts) == (6, 4)
    assert "interval" in texts[0][0]
    assert texts[0][1] == texts[5][3]
    assert "not defined" in texts[0][1]
    assert "predictions %{z:.4~g}" in texts[1][3]
    assert "interval" not in texts[1][3]


def test_names_are_never_markup(store, facts):
    model = replace(facts.model("alpha"), name="<img src=x onerror=alert(1)>%{z}")
    values = head_figures.Values(queries.head_values(
        Ask(store, ("alpha",), Selection()), "flip").rows(store))
    _, texts, _ = values.hover(model, measure("flip"), "z")
    assert not any("<img" in text or "%{z}" in text for text in texts)


@pytest.mark.parametrize(("bits", "planes"), [(8, 1), (12, 2)])
def test_packed_numbers_come_back(bits, planes):
    values = np.append(np.random.default_rng(0).normal(size=500), [np.nan, 3.0])
    packed = chart.codes(values, bits)
    back = read({"data": [{"meta": {"dots": 502, "packed": {"x": packed, "y": packed}}}],
                 "layout": {}}).data[0]
    assert back.x == pytest.approx(values, abs=packed["step"] * 0.51, nan_ok=True)
    assert len(packed["codes"]) == -(-502 * planes // 3) * 4
    assert np.isfinite(chart.codes(np.array([np.nan]), bits)["low"])


def test_many_dots_travel_small(facts):
    """Ten thousand images of a model: no text of each, and the filter as a bit of each."""
    n, rng = 10_000, np.random.default_rng(0)
    rows = pa.table({
        "model": ["alpha"] * n, "image": np.arange(5, n + 5), "x": rng.normal(size=n),
        "y": rng.normal(size=n), "path": ["p"] * n, "label": rng.choice(["cat", "dog"], n),
        "predicted": ["cat"] * n, "probability": rng.random(n), "kept": rng.random(n) < 0.3})
    colour = overview_figures.Colour("label", "label", ("cat", "dog"))
    figure = overview_figures.draw(rows, [facts.model("alpha")], colour)
    assert len(json.dumps(figure)) < 8 * n
    (dots,) = read(figure).data
    assert dots.selectedpoints == tuple(np.flatnonzero(rows["kept"].to_numpy()))
    assert list(dots.customdata[:3]) == [5, 6, 7]
    assert [["dog", "cat"][int(v)] for v in dots.marker.color] == rows["label"].to_pylist()
    assert dots.x == pytest.approx(rows["x"].to_numpy(), abs=0.001)
    assert "image %{customdata}" in dots.hovertemplate
    assert dots.text is None


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.id)
def test_a_view_is_redrawn_only_for_what_it_reads(view, facts):
    start, _ = from_url("", facts)
    other, _ = from_url("?image=3", facts)
    assert (view.key(start) != view.key(other)) == ("focus" in view.reads)


def test_a_filter_changes_only_which_dots_pass(store, facts):
    """What is the same in two answers is made once."""
    one, other = (sent("overview", url, store, facts).content
                  for url in ("?label=cat", "?label=dog"))
    for before, after in zip(one["data"], other["data"], strict=True):
        assert before.get("text") is after.get("text")
        own, new = (trace["meta"]["packed"] for trace in (before, after))
        assert [own[axis] is new[axis] for axis in ("x", "y")] == [True, True]
        assert own["kept"] != new["kept"]
