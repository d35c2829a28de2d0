"""D2 to D5: one head's attention on one image, whatever the geometry of its block."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from dashapp.attention import Matrix, image_of, largest, missing, picked
from dashapp.callbacks import draw_view
from dashapp.crop import Box
from dashapp.facts import Block
from dashapp.figures import attention as figures
from dashapp.state import State, from_url
from dashapp.views import VIEWS
from tests.dashapp import elements
from tests.dashapp.figures import read
from tests.synthetic_patterns import KEPT, attention

BY_ID = {view.id: view for view in VIEWS}
BLOCKS = {
    "class token": Block(2, 3, 4, 1, True),
    "registers": Block(2, 3, 4, 5, True),
    "no class token": Block(2, 4, 3),
    "only the class token asks": Block(2, 3, 3, 1, True, class_query=True),
    "windows": Block(2, 4, 4, windowed=True),
    "large": Block(1, 28, 30, 2, True),
    "one patch": Block(1, 1, 1),
}


def matrix_of(block: Block) -> Matrix:
    """Random attention; in windows of two columns where there are windows."""
    rng = np.random.default_rng(3)
    queries = 1 if block.class_query else block.tokens
    weights = rng.dirichlet(np.full(block.tokens, 0.3), queries)
    if block.windowed:
        window = np.arange(block.tokens) % block.grid_w // 2
        weights[window[:, None] != window[None]] = np.nan
    query, key = np.nonzero(np.isfinite(weights))
    return Matrix.of(pa.table({"query": query, "key": key, "weight": weights[query, key]}), block)


def drawn(view: str, search: str, store, facts):
    made = draw_view(BY_ID[view], store, from_url(search, facts)[0], facts)
    as_drawn = elements.read if BY_ID[view].form == "panel" else read
    return replace(made, content=as_drawn(made.content))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("looks", ["at", "from"])
def test_every_geometry_is_drawn(name, looks):
    block = BLOCKS[name]
    found = matrix_of(block)
    low, high = found.drawn(State())
    for token in {0, block.tokens // 2, block.tokens - 1, picked(State(), block)}:
        look = read(figures.look(found, token, looks, 0, Box(0, 0, 1, 1)))
        assert len(look.layout.images) == 2
        shown = np.concatenate([np.ravel(t.z) for t in look.data[1:]])
        values = found.along(token, looks)
        assert np.allclose(np.sort(shown), np.sort(values), equal_nan=True)
        made, count = figures.lines(found, low, high, token, looks)
        lines = read(made)
        assert sum(t.meta["links"] for t in lines.data if "links" in t.meta) == min(
            count, figures.MOST_LINES) > 0
        for figure in (made, figures.matrix(found, low, high, token, looks),
                       figures.weights(found, low, high)):
            read(figure)
            assert len(json.dumps(figure)) < 500_000


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "large"])
def test_the_matrix_tells_weights_and_what_is_drawn(name):
    found = matrix_of(BLOCKS[name])
    low, high = found.drawn(State(links="5"))
    (cells, _) = read(figures.matrix(found, low, high, 0, "at")).data
    meta = cells.meta["matrix"]
    shades = np.asarray(cells.z).astype(float)
    assert ((shades == 0) == ~np.isfinite(found.weights)).all()
    inside = shades > meta["steps"]
    assert (inside == ((found.weights >= low) & (found.weights <= high))).all()
    share = (shades - 1 - meta["steps"] * inside) / (meta["steps"] - 1)
    seen = np.isfinite(found.weights)
    assert np.square(share[seen]) * meta["top"] == pytest.approx(
        found.weights[seen], abs=found.top / meta["steps"])
    assert len(cells.x) == shades.shape[1] + 1
    assert (np.diff(np.asarray(cells.x, float)) > 0).all()


def test_pooling_keeps_the_largest_of_each_square():
    block = BLOCKS["large"]
    found = matrix_of(block)
    (cells, _) = read(figures.matrix(found, 0.5, 1.0, 0, "at")).data
    shades = figures._shades(found, 0.5, 1.0)
    pool, z = cells.meta["matrix"]["pool"], np.asarray(cells.z)
    assert pool == 3
    assert max(z.shape) <= figures.MOST_CELLS + block.prefix
    assert (z[:2, :2] == shades[:2, :2]).all()
    for row, column in ((2, 2), (10, 100), (z.shape[0] - 1, z.shape[1] - 1)):
        first, left = 2 + (row - 2) * pool, 2 + (column - 2) * pool
        assert z[row, column] == shades[first:first + pool, left:left + pool].max()


def test_prefix_rows_are_wider_than_patches():
    block = Block(1, 16, 16, 1, True)
    (cells, _) = read(figures.matrix(matrix_of(block), 0.1, 1, 0, "at")).data
    widths = np.diff(np.asarray(cells.x, float))
    assert widths[0] > 5 * widths[1]
    assert widths[1:] == pytest.approx(1)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 1.0])
def test_the_largest_share_is_drawn(share):
    weights = np.random.default_rng(0).random(5000)
    assert (weights >= largest(weights, share)).sum() == round(share * 5000)
    assert largest(np.full(100, 0.25), share) == 0.25
    assert largest(np.array([]), share) == 1.0


def test_a_brush_decides_what_is_drawn(store, facts):
    where = "?head=1.2%40alpha&image=1"
    attended = attention(1, dict(grid=(7, 7), class_token=True, registers=0, heads=4))
    weights = attended[1, 0, 2].numpy()
    edge = float(np.sort(weights.ravel())[-40]) - 0.002
    for search, expected in ((f"{where}&weights={edge:.4f},1", (weights >= edge).sum()),
                             (f"{where}&weights=0,1", weights.size)):
        lines = drawn("lines", search, store, facts).content
        assert sum((t.meta or {}).get("links", 0) for t in lines.data) == pytest.approx(
            expected, abs=1)
        cells = drawn("attention", search, store, facts).content.data[0]
        assert (np.asarray(cells.z) > figures.STEPS).sum() == pytest.approx(expected, abs=1)
    caption = drawn("lines", f"{where}&weights=0.99,1", store, facts).caption
    assert caption.startswith("0 of 2,500 links")
    assert "Brush D5 elsewhere" in caption


def test_class_links_are_blue_and_patch_links_orange(store, facts):
    figure = drawn("lines", "?head=1.3%40gamma&image=0&weights=0,1", store, facts).content
    for trace in figure.data:
        if "links" not in trace.meta:
            continue
        ends = np.asarray(trace.x, float).reshape(-1, 3)[:, :2]
        of_class = (ends < 5).any(1)
        colour = theme_of(trace.line.color)
        assert of_class.all() if colour == figures.CLASS_COLOUR else not of_class.any()


def theme_of(colour: str) -> str:
    if colour.startswith("#"):
        return colour
    numbers = [int(v) for v in colour[5:].split(",")[:3]]
    return "#" + "".join(f"{v:02x}" for v in numbers)


def test_where_a_patch_looks_and_who_looks_at_it(store, facts):
    truth = attention(0, dict(grid=(14, 14), class_token=False, registers=0, heads=3))[2, 0, 1]
    for looks, expected in (("at", truth[30]), ("from", truth[:, 30])):
        figure = drawn("look", f"?head=0.1%40beta&image=2&query=30&looks={looks}", store,
                       facts).content
        heat = np.asarray(figure.data[1].z, float).ravel()
        assert heat == pytest.approx(expected.numpy(), abs=0.004)
        marks = [(s.x0, s.y0) for s in figure.layout.shapes
                 if s.line.color == figures.CLASS_COLOUR]
        assert marks == [(1.5, 1.5), (1.5, 1.5)]  # patch 30 of 14 x 14 is in row 2, column 2


def test_the_image_lies_under_the_patches_as_the_model_saw_it():
    block = Block(1, 4, 4, 1, True)
    figure = read(figures.look(matrix_of(block), 0, "at", 3, Box(0.25, 0.0, 0.75, 1.0)))
    image = figure.layout.images[0]
    assert image.source == "thumbnail/3"
    left, right = image.x, image.x + image.sizex
    assert (left + 0.25 * (right - left), left + 0.75 * (right - left)) == pytest.approx(
        (-0.5, 3.5))
    assert (image.y, image.sizey) == (-0.5, 4.0)


def test_the_weights_of_all_links_are_counted(store, facts):
    figure = drawn("weights", "?head=1.3%40gamma&image=0", store, facts).content
    assert sum(figure.data[0].y) == 53 ** 2
    assert figure.layout.yaxis.type == "log"
    assert "(1.00%)" in drawn("weights", "?head=1.2%40beta&image=0", store, facts).caption


def test_the_image_is_the_focused_or_the_first_that_is_kept(facts):
    def image(search: str):
        return image_of(from_url(search, facts)[0], facts)

    assert (image(""), image("?image=2"), image(f"?image={KEPT}"), image("?model=")) == (
        0, 2, None, None)
    assert "image 40 is not kept" in missing(from_url("?image=40", facts)[0], facts)


def test_the_other_chosen_heads_can_be_turned_to(store, facts):
    content = drawn("head", "?heads=0.1,2.3%40alpha&heads=1.0%40beta", store, facts).content
    text = json.dumps([c.to_plotly_json() for c in content], default=lambda o: o.to_plotly_json())
    assert text.count('"data-open"') == 3
    assert text.count("turn now") == 1
    assert text.count('"data-focus"') == KEPT


@pytest.mark.parametrize(("block", "number", "expected"), [
    (BLOCKS["registers"], 0, "class token"), (BLOCKS["registers"], 4, "prefix token 4"),
    (BLOCKS["registers"], 5, "patch 0, 0"), (BLOCKS["registers"], 16, "patch 2, 3"),
    (Block(1, 2, 2, 2), 0, "prefix token 1"), (BLOCKS["no class token"], 4, "patch 1, 1")])
def test_tokens_have_names(block, number, expected):
    assert block.token(number) == expected
