"""The arrays of a model hold what the rows of images hold, and are made again in time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from precompute.series import line_up
from store import places, series
from store.reader import open_store
from store.schema import IMPORTANCE, SUMMARISED
from store.series_tables import BOUNDS, CELL_COLUMNS, CELLS, FILE, NOWHERE, PLACES
from store.sums import find_damage
from store.writer import StoreWriter
from tests.synthetic import make_store


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("series") / "atlas", 12)


@pytest.fixture(scope="module")
def arrays(path) -> dict[str, np.ndarray]:
    return load_file(file_of(path))


def file_of(store: Path, model: str = "alpha") -> Path:
    return places.model_folder(store, model) / FILE


def rows_of(path, table: str, columns: str, also: str = "") -> dict[tuple, tuple]:
    rows = open_store(path).query(
        f"SELECT layer, head, image, {columns} FROM {table} WHERE model = 'alpha' {also}")
    return {tuple(row[:3]): tuple(row[3:]) for row in zip(*rows.to_pydict().values(), strict=True)}


def row_of(arrays, layer: int, head: int) -> int:
    (found,) = np.flatnonzero((arrays["layer"] == layer) & (arrays["head"] == head))
    return int(found)


def test_heads_are_in_order_and_each_is_there_once(path, arrays):
    rows = open_store(path).query("SELECT layer, head FROM heads WHERE model = 'alpha' "
                                  "ORDER BY layer, head").to_pydict()
    assert (arrays["layer"].tolist(), arrays["head"].tolist()) == (rows["layer"], rows["head"])


@pytest.mark.parametrize("column", SUMMARISED, ids=lambda c: c.name)
def test_an_array_holds_the_measure_of_every_head_and_image(path, arrays, column):
    table, also = ("head_scores", "AND ablation = 'zero'") if column in IMPORTANCE else (
        "head_strength", "")
    expected = rows_of(path, table, f"{column.name}::DOUBLE", also)
    values = arrays[column.name]
    assert values.size == len(expected) and values.shape[1] == 12
    for (layer, head, image), (value,) in expected.items():
        np.testing.assert_equal(values[row_of(arrays, layer, head), image],
                                np.float32(np.nan if value is None else value))


@pytest.mark.parametrize("column", SUMMARISED, ids=lambda c: c.name)
def test_what_is_counted_of_a_measure_is_what_its_values_say(arrays, column):
    values = arrays[column.name].astype(float)
    known = np.isfinite(values)
    np.testing.assert_array_equal(arrays[f"{column.name}.images"], arrays[column.name].T)
    counts, means, squares = arrays[f"{column.name}.totals"]
    for row, there, *said in zip(values, known, counts, means, squares, strict=True):
        own = row[there]
        expected = len(own), own.mean() if len(own) else 0, len(own) * own.var() if len(own) else 0
        np.testing.assert_allclose(said, expected, rtol=1e-9, atol=1e-15)
    by_image = np.stack([np.where(known, values, 0).sum(0), known.sum(0)])
    np.testing.assert_allclose(arrays[f"{column.name}.by_image"], by_image, rtol=1e-6)
    assert arrays[f"{column.name}.bins"].sum() == known.sum()
    if known.any():
        low, high, k, first = arrays[f"{column.name}.span"]
        assert (low, high) == (values[known].min(), values[known].max())
        edges = (first + np.arange(arrays[f"{column.name}.bins"].shape[1] + 1)) * 2.0**k
        for image in range(values.shape[1]):
            own = values[known[:, image], image]
            expected = np.histogram(own, np.append(edges[:-1], np.inf))[0]
            np.testing.assert_array_equal(arrays[f"{column.name}.bins"][image], expected)


def test_the_profiles_are_those_of_the_rows(path, arrays):
    expected = rows_of(path, "head_strength", "hop_strength")
    profiles = arrays["hop_strength"]
    for (layer, head, image), (profile,) in expected.items():
        row = row_of(arrays, layer, head)
        assert arrays["hops"][row] == len(profile)
        np.testing.assert_array_equal(profiles[row, :len(profile), image],
                                      np.float32(profile))
    mean = arrays["hop_strength.mean"]
    np.testing.assert_allclose(mean, profiles.astype(float).mean(0), rtol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(mean, arrays["hop_strength.order"], 1),
                                  np.sort(mean, 1))


@pytest.mark.parametrize(("kind", "space"), CELL_COLUMNS)
def test_a_cell_is_where_the_pattern_lies(path, arrays, kind, space):
    (bounds,) = open_store(path).query(
        f"SELECT {BOUNDS[space]} AS b FROM pattern_spaces WHERE kind = '{kind}'").to_pylist()
    expected = rows_of(path, "head_patterns", ", ".join(PLACES[space]), f"AND kind = '{kind}'")
    cells = arrays[CELL_COLUMNS[kind, space]]
    assert cells.size == len(expected)
    for (layer, head, image), place in expected.items():
        cell = cells[image, row_of(arrays, layer, head)]
        for value, found, low, high in zip(place, divmod(int(cell), CELLS), bounds["b"][::2],
                                           bounds["b"][1::2], strict=True):
            share = (float(np.float32(value)) - low) / (high - low)
            assert found == np.clip(np.floor(share * CELLS), 0, CELLS - 1)
    counted = arrays[f"{CELL_COLUMNS[kind, space]}.count"]
    assert counted.sum() == cells.size and counted[cells[0, 0]] == (cells == cells[0, 0]).sum()


def test_a_model_without_class_token_is_nowhere_in_the_class_map(path):
    without = open_store(path).query("SELECT model FROM models WHERE NOT class_token").to_pydict()
    assert without["model"]
    for model in without["model"]:
        assert (load_file(file_of(path, model))["class_pca_map"] == NOWHERE).all()


def test_series_are_made_again_when_what_they_are_made_of_changes(tmp_path, capsys):
    store = make_store(tmp_path / "atlas", 12)
    writer = StoreWriter(store)
    files = sorted(store.glob(f"models/*/{FILE}"))
    before = [file.read_bytes() for file in files]
    line_up(writer)
    assert "series" not in "".join(capsys.readouterr())
    places.files_of(store, "head_patterns", "alpha")[0].rename(tmp_path / "gone.parquet")
    line_up(writer)
    assert "series" in "".join(capsys.readouterr())
    changed = [file.read_bytes() != old for file, old in zip(files, before, strict=True)]
    assert changed == ["alpha" in str(file) for file in files]
    assert (load_file(file_of(store))["patch_pca_map"] == NOWHERE).any()
    assert not find_damage(store)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_damaged_file_is_noticed_and_made_again(path, tmp_path, content):
    store = tmp_path / "atlas"
    shutil.copytree(path, store)
    before = file_of(store).read_bytes()
    file_of(store).write_bytes(content)
    assert [damage.file for damage in find_damage(store)] == [file_of(store)]
    assert series.dense(open_store(store), "alpha", "distance") is None
    line_up(StoreWriter(store))
    assert file_of(store).read_bytes() == before


def test_a_store_of_too_many_images_has_no_series(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("precompute.series.MOST_IMAGES", 11)
    store = make_store(tmp_path / "atlas", 12)
    for file in store.glob(f"models/*/{FILE}"):
        file.unlink()
    line_up(StoreWriter(store))
    assert not list(store.glob(f"models/*/{FILE}"))
    assert "12 images are more than 11" in "".join(capsys.readouterr())
