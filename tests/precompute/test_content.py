"""Content dependence against its definition, and the pattern columns of `heads` against means."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from precompute import content, patterns
from precompute.canonical import canonical
from precompute.content import content_columns, divergence
from precompute.kept import attention_rows, compress
from precompute.patterns import pattern_columns
from precompute.rows import HeadRows
from precompute.strength import look
from store.canon import CLASS, PATCH, decode, unpack
from store.places import MARKER
from store.reader import Store, open_store
from store.schema import IMPORTANCE
from store.writer import StoreWriter, to_table
from tests.precompute.patterns_world import attention_of, geometry_of
from tests.precompute.test_strength import PADDED_WINDOWS, WHOLE_WINDOWS, _attention, _places

GRID = (6, 8)
LAYERS = (("self", "random", "sink"), ("left", "uniform"))
HEADS = [(layer, head) for layer, names in enumerate(LAYERS) for head in range(len(names))]
IMAGES = [3, 4, 7, 9, 12]


def _layer(names: tuple[str, ...]) -> torch.Tensor:
    """image window head query key"""
    return torch.cat([attention_of(name, GRID, images=len(IMAGES), seed=i)
                      for i, name in enumerate(names)], dim=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _store(tmp_path_factory.mktemp("content") / "s", len(IMAGES))


def _store(path: Path, kept: int) -> Store:
    writer, attention = StoreWriter(path), [_layer(names) for names in LAYERS]
    rows = HeadRows("m", IMAGES)
    for layer in attention:
        rows.add_scores({c.name: torch.zeros(layer.shape[:3:2]) for c in IMPORTANCE})
        rows.add_patterns(canonical(look(layer, geometry_of(GRID))))
    writer.write_unit("models/m/heads/00000", rows.tables("zero"))
    if kept:
        writer.write_unit("models/m/attention/00000", {"attention": attention_rows(
            "m", IMAGES[:kept], [compress(layer[:kept]) for layer in attention])})
    row = {"model": "m", "heads": 3, "grid_h": GRID[0], "grid_w": GRID[1], "prefix_tokens": 1,
           "class_token": True, "class_query": False, "window_h": None, "window_w": None,
           "shift_h": None, "shift_w": None, "places": None}
    writer.write_file("models/m/layers.parquet", to_table("layers", {
        "layer": range(len(LAYERS)), **{k: [v] * len(LAYERS) for k, v in row.items()}}))
    assert (path / MARKER).exists()
    return open_store(path)


def _loops(attention: np.ndarray, real: list[tuple[int, int]]) -> float:
    """By scipy's distance (the square root of the divergence), a row at a time."""
    mean = attention.mean(0)
    return float(np.mean([[jensenshannon(one[w, q], mean[w, q]) ** 2 for w, q in real]
                          for one in attention]))


@pytest.mark.parametrize("geometry", [*WHOLE_WINDOWS, *PADDED_WINDOWS], ids=str)
def test_divergence_is_its_definition(geometry) -> None:
    attention = _attention(geometry)[:, :, 0].numpy()
    places = np.array(_places(geometry))
    real = [(w, q) for w, q in np.ndindex(places.shape) if places[w, q] >= 0]
    assert divergence(attention, places.ravel() >= 0) == pytest.approx(_loops(attention, real))


def test_content_dependence_is_that_of_what_was_kept(store: Store) -> None:
    found = content_columns(store, "m", HEADS)
    assert found["content_images"] == [len(IMAGES)] * len(HEADS)
    for (layer, head), value in zip(HEADS, found["content_dependence"], strict=True):
        attention = _layer(LAYERS[layer])[:, :, head].numpy()
        wanted = _loops(attention, [(0, q) for q in range(attention.shape[2])])
        assert value == pytest.approx(wanted, rel=0.05, abs=2e-3)
        assert 0 <= value <= math.log(2)
    scattered, sink = (found["content_dependence"][HEADS.index((0, i))] for i in (1, 2))
    assert min(scattered, sink) > 4 * max(found["content_dependence"][i] for i in (0, 3, 4))


def test_as_many_images_as_memory_allows_but_at_least_two(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit, images in (("MOST", 3, 3), ("WEIGHTS", 1, 2), ("WEIGHTS", 4 * 49 ** 2, 4)):
        with monkeypatch.context() as patch:
            patch.setattr(content, name, limit)
            assert content_columns(store, "m", HEADS)["content_images"] == [images] * len(HEADS)


@pytest.mark.parametrize(("kept", "images"), [(0, None), (1, 1)])
def test_fewer_than_two_images_tell_nothing(tmp_path: Path, kept: int, images: int | None) -> None:
    found = content_columns(_store(tmp_path / "s", kept), "m", HEADS)
    assert found == {"content_dependence": [None] * len(HEADS),
                     "content_images": [images] * len(HEADS)}


def test_columns_are_means_over_images_and_heads_get_their_names(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "CHUNK", 2)
    found = pattern_columns(store, "m", HEADS, IMAGES)
    assert found["pattern"] == ["self", "scattered", "sink", "offset", "uniform"]
    assert found["pattern_way"] == [None, None, None, "1 left", None]
    rows = store.query("FROM pattern_inputs ORDER BY layer, head, image").to_pylist()
    for i, (layer, head) in enumerate(HEADS):
        own = [r for r in rows if (r["layer"], r["head"]) == (layer, head)]
        for column, kind, name in (("patch_pattern", PATCH, "patch"),
                                   ("class_pattern", CLASS, "class")):
            wanted = np.mean([decode(kind, np.array(r[name])) for r in own], axis=0)
            assert found[column][i] == pytest.approx(wanted, abs=1e-6)
        scores = {s["name"]: s for s in found["pattern_scores"][i]}
        assert found["pattern_score"][i] == scores[found["pattern"][i]]["score"]
        assert found["pattern_score"][i] >= scores[found["pattern"][i]]["needed"]
    assert found["cluster"] == found["class_cluster"] == [None] * len(HEADS)
    itself = unpack(np.array(rows[0]["near"]))[12]
    assert itself == pytest.approx(rows[0]["self_mass"], abs=0.06)


def test_heads_without_patterns_have_none(store: Store) -> None:
    found = pattern_columns(store, "m", [*HEADS, (2, 0)], IMAGES)
    for column, values in found.items():
        assert len(values) == 6 and values[-1] is None, column
