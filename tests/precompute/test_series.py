"""The lists of head_series hold what the rows of images hold, and are made again in time."""

from __future__ import annotations

import numpy as np
import pytest

from precompute.series import line_up
from store import places
from store.reader import open_store
from store.schema import IMPORTANCE, SUMMARISED
from store.series_tables import BOUNDS, CELL_COLUMNS, CELLS, NOWHERE, PLACES
from store.writer import StoreWriter
from tests.synthetic import make_store


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("series") / "atlas", 12)


@pytest.fixture(scope="module")
def row(path) -> dict:
    (found,) = open_store(path).query(
        "FROM head_series WHERE model = 'alpha' AND layer = 2 AND head = 1").to_pylist()
    return found


def per_image(path, table: str, column: str, also: str = "") -> list:
    rows = open_store(path).query(
        f"SELECT {column} AS v FROM {table} WHERE model = 'alpha' AND layer = 2 AND head = 1 "
        f"{also} ORDER BY image")
    return rows["v"].to_pylist()


@pytest.mark.parametrize("column", SUMMARISED, ids=lambda c: c.name)
def test_a_list_holds_the_measure_of_every_image(path, row, column):
    table, also = ("head_scores", "AND ablation = 'zero'") if column in IMPORTANCE else (
        "head_strength", "")
    expected = per_image(path, table, f"{column.name}::DOUBLE", also)
    assert len(expected) == row["images"] == 12
    assert [v is None for v in row[column.name]] == [v is None for v in expected]
    np.testing.assert_array_equal(
        *(np.array([np.nan if v is None else v for v in values], np.float32)
          for values in (row[column.name], expected)))


def test_the_profiles_are_one_after_the_other(path, row):
    expected = np.array(per_image(path, "head_strength", "hop_strength"), np.float32)
    assert row["hops"] == expected.shape[1]
    np.testing.assert_array_equal(np.array(row["hop_strength"], np.float32), expected.ravel())
    (mean,) = open_store(path).query("FROM model_series WHERE model = 'alpha'").to_pylist()
    every = open_store(path).query("SELECT image, hop_strength AS v FROM head_strength "
                                   "WHERE model = 'alpha' ORDER BY image")
    profiles = np.array(every["v"].to_pylist()).reshape(12, -1, row["hops"])
    np.testing.assert_allclose(mean["hop_strength"], profiles.mean(1).ravel(), rtol=1e-6)


@pytest.mark.parametrize(("kind", "space"), CELL_COLUMNS)
def test_a_cell_is_where_the_pattern_lies(path, row, kind, space):
    (bounds,) = open_store(path).query(
        f"SELECT {BOUNDS[space]} AS b FROM pattern_spaces WHERE kind = '{kind}'").to_pylist()
    for axis, name, low, high in ((0, PLACES[space][0], *bounds["b"][:2]),
                                  (1, PLACES[space][1], *bounds["b"][2:])):
        values = np.array(per_image(path, "head_patterns", name, f"AND kind = '{kind}'"))
        cells = np.array(row[CELL_COLUMNS[kind, space]])
        assert (cells < NOWHERE).all()
        place = cells // CELLS if axis == 0 else cells % CELLS
        expected = np.floor((values.astype(np.float32).astype(float) - low) / (high - low) * CELLS)
        np.testing.assert_array_equal(place, np.clip(expected, 0, CELLS - 1))


def test_a_model_without_class_token_is_nowhere_in_the_class_map(path):
    rows = open_store(path).query("SELECT h.class_pca_cells AS c FROM head_series h JOIN models m "
                                  "USING (model) WHERE NOT m.class_token").to_pylist()
    assert rows
    assert {cell for row in rows for cell in row["c"]} == {NOWHERE}


def test_series_are_made_again_when_what_they_are_made_of_changes(path, tmp_path, capsys):
    store = make_store(tmp_path / "atlas", 12)
    writer = StoreWriter(store)
    files = places.files_of(store, "head_series")
    before = [file.read_bytes() for file in files]
    line_up(writer)
    assert "series" not in "".join(capsys.readouterr())
    places.files_of(store, "head_patterns", "alpha")[0].rename(tmp_path / "gone.parquet")
    line_up(writer)
    assert "series" in "".join(capsys.readouterr())
    changed = [file.read_bytes() != old for file, old in zip(files, before, strict=True)]
    assert changed == ["alpha" in str(file) for file in files]
    cells = open_store(store).query("SELECT patch_pca_cells AS c FROM head_series "
                                    "WHERE model = 'alpha'").to_pylist()
    assert any(cell == NOWHERE for row in cells for cell in row["c"])


def test_a_store_of_too_many_images_has_no_series(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("precompute.series.MOST_IMAGES", 11)
    store = make_store(tmp_path / "atlas", 12)
    for file in places.files_of(store, "head_series"):
        file.unlink()
    line_up(StoreWriter(store))
    assert not places.files_of(store, "head_series")
    assert "12 images are more than 11" in "".join(capsys.readouterr())
