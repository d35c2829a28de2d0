"""What the pattern views ask, against the same asked plainly."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from store import pattern_queries as queries
from store.queries import Ask
from store.reader import open_store
from store.selection import Heads, Labels, Selection
from store.series_tables import BOUNDS, CELLS, PLACES
from tests.synthetic import make_store
from tests.synthetic_patterns import KEPT, attention

HEAD = ("alpha", 2, 1)
FILTER = Selection().with_(Labels(("cat",))).with_(Heads((HEAD, ("gamma", 0, 0))))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(make_store(tmp_path_factory.mktemp("patterns") / "atlas", 12))


def ask(store, selection: Selection = FILTER) -> Ask:
    return Ask(store, ("alpha", "gamma"), selection)


@pytest.mark.parametrize("space", PLACES)
def test_the_cloud_counts_every_pattern_once(store, space):
    x, y = PLACES[space]
    query = queries.cloud(ask(store), "patch", space, most=2)
    points = store.query(
        f"SELECT {x} AS x, {y} AS y, model, layer, head, image, label FROM head_patterns "
        "JOIN images USING (image) WHERE kind = 'patch' AND model <> 'beta'").to_pylist()
    (space_row,) = store.query(f"SELECT {BOUNDS[space]} AS b FROM pattern_spaces "
                               "WHERE kind = 'patch'").to_pylist()
    x0, x1, y0, y1 = space_row["b"]
    cats = sorted({p["image"] for p in points if p["label"] == "cat"})
    assert len(cats) == 3  # of more than 2, every second one counts

    def cell(point: dict) -> tuple[int, int]:
        return tuple(max(0, min(CELLS - 1, math.floor((point[a] - low) / (high - low) * CELLS)))
                     for a, low, high in (("x", x0, x1), ("y", y0, y1)))

    def passes(point: dict) -> bool:
        key = (point["model"], point["layer"], point["head"])
        return point["image"] in cats[::2] and key in (HEAD, ("gamma", 0, 0))

    everything = Counter(map(cell, points))
    kept = Counter(cell(p) for p in points if passes(p))
    assert kept.total() == 2 * 2
    for rows in (query.rows(store), store.query(query.sql, query.params)):
        cells = rows.to_pylist()
        assert {(c["i"], c["j"]): c["everything"] for c in cells} == everything
        assert {(c["i"], c["j"]): c["kept"] for c in cells if c["kept"]} == kept


def test_the_sample_is_the_same_each_time_and_no_larger(store):
    once, again = (queries.sample(ask(store), "class", "pca", 50).rows(store) for _ in range(2))
    assert once.equals(again)
    assert 25 <= once.num_rows <= 50


def test_places_are_of_the_means_or_of_one_image(store):
    means = queries.places(ask(store), "patch", "autoencoder", None).rows(store).to_pylist()
    at = queries.places(ask(store), "patch", "pca", 7).rows(store).to_pylist()
    assert len(means) == len(at) == 24 + 24
    for row, table, x, where in ((means[9], "head_places", "x", ""),
                                 (at[9], "head_patterns", "pca_x", "AND image = 7")):
        expected = store.query(
            f"SELECT {x} AS x FROM {table} WHERE kind = 'patch' AND model = ? AND layer = ? AND "
            f"head = ? {where}", [row["model"], row["layer"], row["head"]]).to_pylist()
        assert [{"x": row["x"]}] == expected
    assert {row["cluster"] for row in at} == {0, 1, 2, 3}


def test_clusters_hold_every_head_of_the_models_on_show(store):
    rows = queries.clusters(ask(store), "patch", "autoencoder").rows(store).to_pylist()
    named = [f"{row['keys']}@{row['model']}" for row in rows]
    heads = Heads.from_url(named).heads
    assert len(heads) == sum(row["heads"] for row in rows) == 48
    assert sum(row["chosen"] for row in rows) == 2
    assert all(head % 4 == next(r["cluster"] for r in rows if f"{layer}.{head}" in
                                r["keys"].split(",") and r["model"] == model)
               for model, layer, head in heads)


def test_attention_comes_back_as_links(store):
    shape = dict(grid=(7, 7), class_token=True, registers=0, heads=4)
    truth = attention(2, shape)[1, 0, 1].numpy()
    links = queries.attention(HEAD, 1).rows(store)
    whole = np.zeros_like(truth)
    whole[links["query"].to_numpy(), links["key"].to_numpy()] = links["weight"].to_numpy()
    assert links.num_rows == truth.size
    # half a step of the square root, of a row's largest weight
    assert np.abs(whole - truth).max() <= truth.max() / 255 + 1e-6


def test_what_is_not_kept_gives_no_links(store):
    assert queries.attention(HEAD, KEPT).rows(store).num_rows == 0
    assert queries.attention(("alpha", 99, 0), 0).rows(store).num_rows == 0


def test_heads_alike_are_the_first_of_each_model_and_the_assigned(store):
    rows = queries.alike(ask(store), HEAD, 2).rows(store).to_pylist()
    assert [row["model"] for row in rows] == sorted(row["model"] for row in rows)
    for model in ("alpha", "gamma"):
        own = [row for row in rows if row["model"] == model]
        values = [row["similarity"] for row in own]
        assert values == sorted(values, reverse=True)
        assert len([row for row in own if row["matched"] is None]) <= 2
    assert any(row["matched"] is not None for row in rows)
    assert HEAD not in {(row["model"], row["layer"], row["head"]) for row in rows}


def test_a_head_without_a_pattern_is_like_none(store):
    assert queries.alike(ask(store), ("alpha", 99, 0), 3).rows(store).num_rows == 0


def test_evidence_and_fits(store):
    assert {r["space"] for r in queries.evidence("patch").rows(store).to_pylist()} == {
        "autoencoder", "pca", "mean"}
    fits = {r["model"]: r["fitted"] for r in queries.fits(ask(store), "class").rows(store)
            .to_pylist()}
    assert fits == {"alpha": True, "gamma": False}
