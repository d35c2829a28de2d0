"""D1: the map, its clusters and its evidence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dash import html

from dashapp.app import create_app
from dashapp.callbacks import draw_view
from dashapp.facts import Live
from dashapp.figures import pattern_map
from dashapp.state import PAINTS, from_url
from dashapp.views import VIEWS
from precompute.series import line_up
from store.writer import StoreWriter
from tests.dashapp import elements
from tests.dashapp.figures import read
from tests.synthetic import MODELS, make_store

BY_ID = {view.id: view for view in VIEWS}


def drawn(view: str, search: str, store, facts):
    made = draw_view(BY_ID[view], store, from_url(search, facts)[0], facts)
    as_drawn = elements.read if BY_ID[view].form == "panel" else read
    return replace(made, content=as_drawn(made.content))


def dots(figure) -> dict:
    return {t.meta["model"]: t for t in figure.data if (t.meta or {}).get("model")}


def words(content) -> str:
    """All text of elements."""
    if isinstance(content, list):
        content = " ".join(map(words, content))
    children = getattr(content, "children", content)
    return words(children) if children is not content else " ".join(str(content or "").split())


def tiles(content) -> list:
    """The buttons that choose heads."""
    if isinstance(content, list):
        return [tile for one in content for tile in tiles(one)]
    own = [content] if hasattr(content, "data-keys") else []
    return own + (tiles(content.children) if getattr(content, "children", None) not in (
        None, content) and not isinstance(content.children, str) else [])


def test_a_dot_is_a_head_and_knows_its_picture(store, facts):
    found = dots(drawn("map", "", store, facts).content)
    assert {name: len(t.x) for name, t in found.items()} == {"alpha": 24, "beta": 24, "gamma": 24}
    gamma = found["gamma"]
    assert list(gamma.customdata[-1]) == [3, 5]
    assert (gamma.meta["picture"]["rows"], gamma.meta["picture"]["columns"]) == (4, 6)
    assert gamma.text[-1].startswith(store.query(
        "SELECT pattern FROM heads WHERE model = 'gamma' AND layer = 3 AND head = 5")
        ["pattern"][0].as_py() + ", score 0.")


def test_a_focused_image_moves_the_dots_to_its_patterns(store, facts):
    moved = dots(drawn("map", "?image=7&space=pca", store, facts).content)["alpha"]
    x = store.query("SELECT pca_x FROM head_patterns WHERE model = 'alpha' AND kind = 'patch' AND "
                    "image = 7 ORDER BY layer, head")["pca_x"].to_numpy()
    assert moved.x == pytest.approx(x)
    assert "image=7" in moved.meta["picture"]["url"]


@pytest.mark.parametrize("cloud", ["density", "scatter"])
def test_what_is_behind_never_answers_the_mouse(store, facts, cloud):
    figure = drawn("map", f"?label=cat&heads=0.1%40alpha&cloud={cloud}", store, facts).content
    behind = [t for t in figure.data if not (t.meta or {}).get("model")]
    assert {t.hoverinfo for t in behind} == {"skip"}
    places = [bool((t.meta or {}).get("model")) for t in figure.data]
    assert places.index(True) == 2
    assert all(places[2:5])


def test_chosen_heads_stay_and_the_others_are_greyed(store, facts):
    figure = drawn("map", "?heads=0.1,2.3%40alpha", store, facts).content
    found = dots(figure)
    assert list(found["alpha"].selectedpoints) == [1, 11]
    assert list(found["beta"].selectedpoints) == []
    assert len(found["beta"].x) == 24
    ring = [s for s in figure.layout.shapes if s.name == "opened"]
    assert [(s.xanchor, s.yanchor) for s in ring] == [
        (pytest.approx(found["alpha"].x[11]), pytest.approx(found["alpha"].y[11]))]


@pytest.mark.parametrize("paint", PAINTS)
def test_every_head_has_a_colour_and_names_stay_names(store, facts, paint):
    figure = drawn("map", f"?paint={paint}", store, facts).content
    for trace in dots(figure).values():
        colours = trace.marker.color
        assert isinstance(colours, str) if paint == "model" else np.isfinite(colours).all()
    if paint in ("pattern", "cluster"):
        bar = figure.layout.coloraxis.colorbar
        assert len(bar.ticktext) == 4
        assert figure.layout.coloraxis.cmax == 3.5


def test_the_colour_of_a_name_is_the_one_of_the_legend(store, facts):
    figure = drawn("map", "?paint=pattern&model=alpha", store, facts).content
    bar = figure.layout.coloraxis.colorbar
    legend = dict(zip(bar.tickvals, bar.ticktext, strict=True))
    names = store.query("SELECT pattern FROM heads WHERE model = 'alpha' ORDER BY layer, head")
    assert [legend[v] for v in dots(figure)["alpha"].marker.color] == \
        names["pattern"].to_pylist()


def test_models_without_class_token_are_said(store, facts):
    made = drawn("map", "?kind=class", store, facts)
    assert set(dots(made.content)) == {"alpha", "gamma"}
    assert "beta has no class token" in made.caption
    alone = drawn("map", "?kind=class&model=beta", store, facts).content
    assert "beta has no class token" in alone.layout.annotations[0].text.replace("<br>", " ")
    assert "no class token" in words(drawn("prototypes", "?kind=class&model=beta", store,
                                           facts).content)


def test_smoothing_loses_no_count():
    rows = {"i": [10, 40], "j": [20, 60], "n": [5, 3]}
    grid = pattern_map._smoothed(pa.table(rows), "n")
    assert np.square(grid).sum() == pytest.approx(8)
    assert np.unravel_index(grid.argmax(), grid.shape) == (20, 10)


def test_names_on_the_map_do_not_overlap():
    figure = pattern_map.theme.bare(100)
    figure["layout"] |= {"xaxis": {"range": [0, 1]}, "yaxis": {"range": [0, 1]}}
    pattern_map.add_names(figure, [("first", 0.5, 0.5), ("second", 0.51, 0.5), ("<b>", 0.5, 0.9)])
    assert [a.text for a in read(figure).layout.annotations] == ["first", "&lt;b&gt;"]


def test_a_tile_chooses_the_heads_of_its_cluster(store, facts):
    made = drawn("prototypes", "?heads=0.1%40alpha&model=alpha&model=gamma", store, facts).content
    found = tiles(made)
    assert len(found) == 4
    keys = json.loads(getattr(found[1], "data-keys"))
    assert keys == ["0.1,1.1,2.1,3.1,4.1,5.1@alpha", "0.1,0.5,1.1,1.5,2.1,2.5,3.1,3.5@gamma"]
    assert [("greyed" in tile.className) for tile in found] == [True, False, True, True]


def test_the_table_says_where_pca_is_as_good(store, facts):
    text = words(drawn("evidence", "", store, facts).content)
    assert "Of 3 tests that compare the two spaces, the autoencoder is better in 2, PCA is as " \
           "good in 1 ." in text
    assert "gamma" in drawn("evidence", "", store, facts).caption


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A store whose patterns were never fitted, and of which no attention is kept."""
    path = make_store(tmp_path_factory.mktemp("bare") / "atlas", 4, {"alpha": MODELS["alpha"]})
    for file in [*path.glob("patterns/*"), *path.glob("models/*/head_*.parquet"),
                 *path.glob("models/*/patterns/*"), *path.glob("models/*/attention/*/*")]:
        file.unlink()
    file = path / "models" / "alpha" / "heads.parquet"
    table = pq.read_table(file)
    for name in ("pattern", "patch_pattern", "class_pattern", "cluster"):
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.nulls(len(table), field.type))
    pq.write_table(table, file)
    line_up(StoreWriter(path))
    return path


@pytest.mark.parametrize("view", BY_ID)
def test_a_store_without_patterns_still_serves_everything_else(view, bare):
    store, facts = Live(bare).now()
    made = drawn(view, "?model=alpha&heads=0.1%40alpha&image=1", store, facts)
    assert made.content is not None
    if view in ("map", "prototypes", "evidence"):
        text = words(made.content) if BY_ID[view].form == "panel" else \
            made.content.layout.annotations[0].text.replace("<br>", " ")
        assert "no pattern space yet" in text
    if view in ("look", "lines", "attention", "weights"):
        text = made.content.layout.annotations[0].text.replace("<br>", " ")
        assert "No attention of alpha is kept" in text
    client = create_app(bare).server.test_client()
    assert client.get(f"/rows/{view}.csv?image=1").status_code in (200, 404)


def test_no_picture_is_asked_for_that_is_not_there(bare, path):
    store, facts = Live(bare).now()
    made = drawn("head", "?heads=0.1%40alpha", store, facts).content
    assert isinstance(made[0], html.Div)
    assert "backgroundImage" not in repr(made)
    shown = drawn("head", "?heads=0.1%40alpha", *Live(path).now()).content
    assert "backgroundImage" in repr(shown)
