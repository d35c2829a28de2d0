"""What is answered from dense arrays is what the SQL of the question answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from store import card_queries, partial_queries, pattern_queries, queries
from store.queries import Ask
from store.reader import open_store
from store.schema import SUMMARISED
from store.selection import Heads, Labels, Outcome, Region, Selection
from store.series_tables import FILE
from tests.synthetic import make_store

MODELS = ("alpha", "beta", "gamma")
CHOSEN = Heads((("alpha", 2, 1), ("beta", 0, 0), ("alpha", 0, 3)))
CATS = Labels(("cat",))
SELECTIONS = {
    "nothing": Selection(),
    "a label": Selection().with_(CATS),
    "a label and heads": Selection().with_(CATS).with_(CHOSEN),
    "heads": Selection().with_(CHOSEN),
    "an outcome": Selection().with_(Outcome("any_wrong")),
    "a lasso": Selection().with_(Region("alpha", ((-1e3, -1e3), (1e3, -1e3), (0.0, 1e3)))),
    "no image": Selection().with_(Region("alpha", ((9e2, 9e2), (9.1e2, 9e2), (9e2, 9.1e2)))),
}
QUESTIONS = {
    "counts": lambda ask: queries.image_counts(ask),
    "overview": lambda ask: queries.overview(ask),
    "overview by effect": lambda ask: queries.overview(ask, "probability_drop"),
    **{f"mean {m.name}": lambda ask, name=m.name: queries.head_values(ask, name)
       for m in SUMMARISED},
    "baselines": lambda ask: queries.baselines(ask),
    "profiles": lambda ask: queries.profiles(ask, (), 3),
    "profiles of heads": lambda ask: queries.profiles(ask, CHOSEN.heads, None),
    **{f"histogram of {name}": lambda ask, name=name: queries.histogram(ask, name, ())
       for name in ("hop_entropy", "true_probability_drop", "cls_self", "flip")},
    "histogram of heads": lambda ask: queries.histogram(ask, "hop_entropy", CHOSEN.heads),
    "at an image": lambda ask: queries.at_image(ask, "distance", (), 5),
    "heads at an image": lambda ask: queries.at_image(ask, "distance", CHOSEN.heads, 5),
    "partial pruning": lambda ask: partial_queries.by_mode(ask, "probability", CHOSEN.heads, None),
    "partial pruning at an image": lambda ask: partial_queries.by_mode(
        ask, "embedding_l2", CHOSEN.heads, 2),
    "predictions": lambda ask: partial_queries.predictions(ask, "cls", CHOSEN.heads, None),
    "predictions at an image": lambda ask: partial_queries.predictions(
        ask, "head", CHOSEN.heads, 2),
    "leaders": lambda ask: partial_queries.leaders(ask, "true_probability_drop", 2),
    "hardest": lambda ask: queries.hardest(ask, "probability_drop", 7),
    "cloud": lambda ask: pattern_queries.cloud(ask, "patch", "autoencoder"),
    "cloud of class patterns": lambda ask: pattern_queries.cloud(ask, "class", "pca", 4),
    "sample": lambda ask: pattern_queries.sample(ask, "patch", "pca", 40),
    "places on an image": lambda ask: pattern_queries.places(ask, "patch", "autoencoder", 5),
    "places of class patterns": lambda ask: pattern_queries.places(ask, "class", "pca", 7),
    "clusters": lambda ask: pattern_queries.clusters(ask, "patch", "pca"),
    "clusters of class patterns": lambda ask: pattern_queries.clusters(ask, "class", "autoencoder"),
    "one head": lambda ask: pattern_queries.head_card(("gamma", 3, 5)),
    "heads with a pattern": lambda ask: pattern_queries.alike(ask, ("beta", 0, 0), 2),
    "facts of an image": lambda ask: pattern_queries.image_size(5),
    "facts of no image": lambda ask: pattern_queries.image_size(60),
    "one image": lambda ask: card_queries.image_card(ask, 5),
    "no image": lambda ask: card_queries.image_card(ask, 60),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("quick") / "atlas")


@pytest.fixture(scope="module")
def store(path):
    return open_store(path)


def sorted_rows(rows: pa.Table) -> pa.Table:
    keys = [name for name in ("model", "image", "layer", "head", "hop", "bin", "i", "j", "mode")
            if name in rows.column_names]
    return rows.sort_by([(name, "ascending") for name in keys]) if keys else rows


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_quick_answer_is_that_of_the_sql(store, question):
    for words, selection in SELECTIONS.items():
        query = QUESTIONS[question](Ask(store, MODELS, selection))
        assert query.quick is not None
        found, expected = query.quick(store), store.query(query.sql, dict(query.params))
        assert found is not None
        assert found.column_names == expected.column_names
        if question != "hardest" and "predictions" not in question:
            found, expected = sorted_rows(found), sorted_rows(expected)
        for name in expected.column_names:
            assert_alike(f"{name}, {words}", found[name], expected[name])


def assert_alike(name: str, found: pa.ChunkedArray, expected: pa.ChunkedArray) -> None:
    assert len(found) == len(expected), name
    assert found.is_null(nan_is_null=True).equals(expected.is_null(nan_is_null=True)), name
    if pa.types.is_floating(expected.type):
        a, b = (pc.fill_null(column.cast(pa.float64()), 0).to_numpy()
                for column in (found, expected))
        scale = max(1e-3, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6 * scale, err_msg=name)
    else:
        assert found.to_pylist() == expected.to_pylist(), name


def test_a_row_group_is_the_row_of_the_sql(store):
    kept = pattern_queries.kept_images().rows(store).to_pylist()
    assert kept
    for one in kept:
        query = pattern_queries.attention((one["model"], 1, 0), one["image"])
        found, expected = query.quick(store), store.query(query.sql, dict(query.params))
        assert found.to_pylist() == expected.to_pylist()
        assert found.column_names == expected.column_names
    assert pattern_queries.attention((one["model"], 99, 0), one["image"]).quick(store) is None


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1 - file.stat().st_size // 2])


def with_other_entries(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def rewrite(file: Path) -> None:
        raw = file.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        entries = json.loads(raw[8:end])
        change(entries)
        header = json.dumps(entries).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])
    return rewrite


def huge(entries: dict) -> None:
    entries["distance.images"]["shape"] = [1 << 20, 1 << 22]
    entries["patch_pca_map"]["shape"] = [60, 1 << 38]


def negative(entries: dict) -> None:
    entries["distance.images"]["shape"] = entries["patch_pca_map"]["shape"] = [-1, 60]


def older(entries: dict) -> None:
    """As of a layout in which both had other names."""
    for name in ("distance.images", "patch_pca_map"):
        entries[f"{name}s"] = entries.pop(name)


@pytest.mark.parametrize("damage", [
    cut, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"\xff" * 4000),
    lambda file: file.write_bytes((9).to_bytes(8, "little") + b"[1, 2, 3]"),
    *map(with_other_entries, (huge, negative, older, dict.clear))],
    ids=["cut", "empty", "noise", "a list", "huge", "negative", "older", "nothing in it"])
def test_where_arrays_are_damaged_the_rows_answer(path, tmp_path, damage):
    shutil.copytree(path, tmp_path / "atlas")
    damage(tmp_path / "atlas" / "models" / "alpha" / FILE)
    store, sound = open_store(tmp_path / "atlas"), open_store(path)
    for question in ("mean distance", "cloud"):
        query, expected = (QUESTIONS[question](Ask(one, MODELS, SELECTIONS["a label"]))
                           for one in (store, sound))
        if question == "mean distance":
            assert query.quick(store) is None
        found, wanted = sorted_rows(query.rows(store)), sorted_rows(expected.rows(sound))
        for name in wanted.column_names:
            assert_alike(name, found[name], wanted[name])


def test_without_series_of_all_images_the_rows_answer(path, tmp_path):
    grown = tmp_path / "grown"
    shutil.copytree(path, grown)
    last = sorted((grown / "images").glob("*.parquet"))[-1]
    rows = pq.read_table(last)
    added = rows[:1].set_column(0, rows.schema.field(0), pa.array([60], pa.int32()))
    pq.write_table(added, grown / "images" / "00099.parquet")
    store = open_store(grown)
    ask = Ask(store, MODELS, SELECTIONS["a label"])
    query = queries.head_values(ask, "distance")
    assert query.quick(store) is None
    assert query.rows(store).num_rows == store.query("FROM heads").num_rows
    for file in grown.glob(f"models/*/{FILE}"):
        file.unlink()
    store.refresh()
    assert queries.profiles(ask, (), None).quick(store) is None
    assert pattern_queries.cloud(ask, "patch", "pca").quick(store) is None
