"""What the Compare tab asks, against the same asked plainly."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from precompute import curves as made
from precompute.agreement import correlate
from store import compare_queries as queries
from store import grids, similar
from store.queries import Ask, head_values
from store.reader import Store, open_store
from store.schema import ABLATIONS, SUMMARISED
from store.selection import Heads, Labels, Region, Selection
from tests.synthetic import LABELS, make_store

MODELS = ("alpha", "beta", "gamma")
EVERY_LABEL = Selection().with_(Labels(LABELS))
SELECTIONS = {
    "nothing": Selection(),
    "label": Selection().with_(Labels(("cat",))),
    "heads": Selection().with_(Heads((("alpha", 0, 1),))),
    "no image": Selection().with_(Region("alpha", ((9e3, 9e3), (9e3, 9e4), (9e4, 9e3)))),
}
TWO = (("alpha", 0, 1), ("gamma", 2, 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_store(make_store(tmp_path_factory.mktemp("compare") / "atlas"))


@pytest.fixture(params=SELECTIONS, ids=str)
def ask(request, store) -> Ask:
    return Ask(store, MODELS, SELECTIONS[request.param])


def values(ask: Ask, name: str) -> dict[tuple, float | None]:
    """Every head's value, by head."""
    return {(r["model"], r["layer"], r["head"]): r["value"]
            for r in head_values(ask, name).rows(ask.store).to_pylist()}


@pytest.mark.parametrize("name", ["distance", "cls_self", "probability_drop"])
def test_a_trend_sums_up_the_heads_of_each_layer(ask, name):
    found = {(r["model"], r["layer"]): r
             for r in queries.trend(ask, name).rows(ask.store).to_pylist()}
    heads: dict[tuple, list] = {}
    for (model, layer, _), value in values(ask, name).items():
        heads.setdefault((model, layer), []).append(value)
    assert found.keys() == heads.keys()
    last = {model: max(layer for m, layer in heads if m == model) for model, _ in heads}
    for key, own in heads.items():
        row, known = found[key], [v for v in own if v is not None]
        assert row["depth"] == key[1] / last[key[0]]
        assert row["heads"] == len(known)
        expected = [np.mean(known), *np.quantile(known, (0, 0.25, 0.5, 0.75, 1))] if known else \
            [math.nan] * 6
        names = ("mean", "low", "q1", "median", "q3", "high")
        assert [row[n] for n in names] == pytest.approx(expected, nan_ok=True)


def test_a_trend_leaves_out_heads_without_a_value():
    rows = queries._layers(None, _rows([1.0, math.nan, 4.0, 2.0], heads=4)).to_pylist()
    assert [(r["heads"], r["mean"], r["median"]) for r in rows] == [
        (3, pytest.approx(7 / 3), 2.0)]


def _rows(column: list[float], heads: int):
    return queries.pa.table({"model": ["m"] * len(column), "layer": np.arange(len(column)) // heads,
                             "head": np.arange(len(column)) % heads, "value": column})


def test_the_values_of_some_heads(ask):
    found = queries.values_of(ask, "sink", TWO).rows(ask.store).to_pylist()
    there = values(ask, "sink")
    assert {(r["model"], r["layer"], r["head"]): r["value"] for r in found} == {
        key: there[key] for key in TWO if key in there}


def test_measures_stand_beside_each_other(ask):
    names = {"x": "hop_entropy", "y": "flip", "shade": "cls_self"}
    rows = queries.against(ask, names).rows(ask.store).to_pylist()
    assert len(rows) == 6 * 4 + 8 * 3 + 4 * 6
    for column, name in names.items():
        there = values(ask, name)
        assert [r[column] for r in rows] == pytest.approx(
            [there.get((r["model"], r["layer"], r["head"])) for r in rows])


def test_matched_heads_and_their_difference(ask):
    rows = queries.matched(ask, ("alpha", "gamma"), "distance").rows(ask.store).to_pylist()
    assigned = ask.store.query(
        "SELECT layer, head, other_layer, other_head FROM head_matches WHERE model = 'alpha' AND "
        "other_model = 'gamma' AND other_layer IS NOT NULL").to_pylist()
    assert {tuple(r[c] for c in ("layer", "head", "other_layer", "other_head")) for r in rows} == {
        tuple(r.values()) for r in assigned}
    there = values(ask, "distance")
    for row in rows:
        one = there.get((row["model"], row["layer"], row["head"]))
        other = there.get((row["other_model"], row["other_layer"], row["other_head"]))
        assert (row["value"], row["other_value"]) == pytest.approx((one, other))
        assert row["difference"] == (None if one is None else pytest.approx(other - one))
    sizes = [abs(r["difference"]) for r in rows if r["difference"] is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) in (0, len(rows))


def test_pairs_without_a_difference_come_last(store):
    ask = Ask(store, MODELS, Selection())
    rows = queries.matched(ask, ("alpha", "beta"), "cls_self").rows(store).to_pylist()
    assert rows
    assert all(r["value"] is not None and r["difference"] is None for r in rows)


def test_agreement_holds_each_pair_of_measures_once(store):
    rows = queries.measures_agree(Ask(store, ("alpha", "gamma"), EVERY_LABEL)).rows(store)
    pairs = [(r["model"], frozenset((r["one"], r["other"]))) for r in rows.to_pylist()]
    assert len(pairs) == len(set(pairs)) > 100
    assert {model for model, _ in pairs} == {"alpha", "gamma"}


def test_agreement_of_ablations_is_of_one_measure(store):
    rows = queries.ablations_agree(Ask(store, ("alpha",), Selection()), "embedding_l2").rows(store)
    assert {frozenset((r["one"], r["other"])) for r in rows.to_pylist()} == {
        frozenset(pair) for pair in itertools.combinations_with_replacement(ABLATIONS, 2)}
    (row,) = [r for r in rows.to_pylist() if {r["one"], r["other"]} == {"zero", "mean"}]
    assert store.query(
        "SELECT spearman FROM rank_agreement WHERE model = 'alpha' AND measure = 'embedding_l2' "
        "AND other_measure = 'embedding_l2' AND ablation = 'zero' AND other_ablation = 'mean'"
        )["spearman"].to_pylist() == [row["spearman"]]


@pytest.mark.parametrize("quantity", queries.QUANTITIES)
def test_curves_of_orders_and_the_span_of_random_ones(store, quantity):
    found = queries.curves(Ask(store, MODELS, Selection()), "embedding_l2", quantity).rows(store)
    everything = store.query(f'SELECT model, measure, "order", pruned, {quantity} AS v '
                             "FROM pruning_curves").to_pylist()
    for row in found.to_pylist():
        own = [r["v"] for r in everything if (r["model"], r["pruned"]) == (
            row["model"], row["pruned"]) and (
                r["measure"] == "random" if row["path"] == "random" else
                (r["measure"], r["order"]) == ("embedding_l2", row["path"])) and r["v"] is not None]
        expected = [np.mean(own), min(own), max(own)] if own else [None] * 3
        assert [row[n] for n in ("value", "low", "high")] == pytest.approx(expected)
        assert row["orders"] == len(own)


@pytest.mark.parametrize("quantity", queries.QUANTITIES)
def test_a_filter_that_all_images_pass_changes_no_curve(store, quantity):
    plain, filtered = (queries.curves(Ask(store, MODELS, selection), "flip", quantity).rows(store)
                       for selection in (Selection(), EVERY_LABEL))
    assert plain.num_rows == filtered.num_rows > 0
    for name in ("model", "path", "pruned", "orders", "images"):
        assert plain[name].to_pylist() == filtered[name].to_pylist()
    for name in ("fraction", "value", "low", "high"):
        assert plain[name].to_pylist() == pytest.approx(filtered[name].to_pylist(), abs=1e-6)


def test_filtered_curves_are_over_what_passes(store):
    ask = Ask(store, ("alpha",), SELECTIONS["label"])
    rows = queries.curves(ask, "flip", "probability").rows(store).to_pylist()
    (one,) = store.query(
        "SELECT avg(probability) AS v, count(*) AS n FROM pruning_points JOIN images USING (image) "
        "WHERE model = 'alpha' AND measure = 'flip' AND \"order\" = 'least_first' AND pruned = 6 "
        "AND label = 'cat'").to_pylist()
    (found,) = [r for r in rows if r["path"] == "least_first" and r["pruned"] == 6]
    assert (found["value"], found["images"]) == (pytest.approx(one["v"]), one["n"])
    assert found["fraction"] == 6 / 24
    nothing = Ask(store, MODELS, SELECTIONS["no image"])
    assert queries.curves(nothing, "flip", "probability").rows(store).num_rows == 0


def test_curves_can_be_of_what_the_store_holds(store):
    assert set(queries.QUANTITIES) == set(made.QUANTITIES)


@pytest.mark.parametrize(("name", "models"), [("flip", ("alpha", "beta")),
                                              ("embedding_l2", MODELS)])
def test_areas_of_the_models_that_have_the_measure(store, name, models):
    rows = queries.areas(Ask(store, MODELS, Selection()), name, "embedding_l2").rows(store)
    assert [(r["model"], r["path"]) for r in rows.to_pylist()] == [
        (model, path) for model in models for path in ("least_first", "most_first")]


def by_measure(query, store) -> dict[tuple, tuple]:
    return {(r["model"], r["layer"], r["head"], r["measure"]): (r["value"], r["low"], r["high"])
            for r in query.rows(store).to_pylist() if r["value"] is not None}


def test_all_measures_of_two_heads(ask):
    found = by_measure(queries.measures_of(ask, TWO), ask.store)
    expected = {}
    for m in SUMMARISED:
        for row in head_values(ask, m.name).rows(ask.store).to_pylist():
            key = (row["model"], row["layer"], row["head"])
            if key in TWO and row["value"] is not None:
                expected[*key, m.name] = (row["value"], row["low"], row["high"])
    assert found.keys() == expected.keys()
    for key, numbers in found.items():
        assert numbers == pytest.approx(expected[key], rel=1e-5, abs=1e-7)


def test_lists_of_all_images_say_the_same_as_rows(store):
    query = queries.measures_of(Ask(store, MODELS, SELECTIONS["label"]), TWO)
    assert query.quick is not None
    assert query.quick(store) is not None
    quick, slow = (by_measure(q, store) for q in (query, replace(query, quick=None)))
    assert quick.keys() == slow.keys()
    for key, numbers in quick.items():
        assert numbers == pytest.approx(slow[key], rel=1e-4, abs=1e-6)


def test_similarity_to_the_first_head(store):
    near = similar.alike(store, *TWO[0], count=1000).to_pylist()
    rows = {(r["model"], r["layer"], r["head"]): r
            for r in queries.patterns_of(TWO).rows(store).to_pylist()}
    assert rows.keys() == set(TWO)
    assert rows[TWO[0]]["similarity"] == pytest.approx(1)
    assert rows[TWO[1]]["similarity"] == pytest.approx(
        next(r["similarity"] for r in near if (r["model"], r["layer"], r["head"]) == TWO[1]))


def test_the_match_of_two_heads(store):
    row = store.query("SELECT * FROM head_matches WHERE other_layer IS NOT NULL LIMIT 1"
                      ).to_pylist()[0]
    one = row["model"], row["layer"], row["head"]
    other = row["other_model"], row["other_layer"], row["other_head"]
    (found,) = queries.match_of(one, other).rows(store).to_pylist()
    assert found == {name: row[name] for name in ("similarity", "p_value", "matched")}
    assert queries.match_of(one, one).rows(store).num_rows == 0


def test_rank_correlation_is_that_of_the_store():
    rng = np.random.default_rng(0)
    for count in (5, 10, 40):
        a, b = rng.integers(0, 8, (2, count)).astype(float)
        a[0], b[:2] = math.nan, (1, 2)
        both = np.isfinite(a)
        rho, _ = correlate(a[None, both], b[None, both])
        assert queries.spearman(a, b) == pytest.approx(rho[0, 0])


@pytest.mark.parametrize(("one", "other", "rho"), [
    ([1, 2, 3], [2, 4, 9], 1), ([1, 2, 3], [3, 2, 1], -1), ([1, 1, 1], [1, 2, 3], math.nan),
    ([1, 2], [1, 2], math.nan), ([], [], math.nan), ([1, 2, math.nan, 3], [1, 2, 0, 3], 1)])
def test_rank_correlation(one, other, rho):
    assert queries.spearman(np.array(one, float), np.array(other, float)) == pytest.approx(
        rho, nan_ok=True)


def test_rows_become_grids_and_back():
    rows = queries.pa.table({"model": ["b", "a", "b"], "layer": [1, 0, 0], "head": [0, 2, 1],
                             "value": [1.0, None, 3.0]})
    found = grids.by_model(rows, "value")
    assert {name: grid.shape for name, grid in found.items()} == {"b": (2, 2), "a": (1, 3)}
    assert np.nan_to_num(found["b"], nan=-1).tolist() == [[-1, 3], [1, -1]]
    assert grids.at(rows, found).tolist() == pytest.approx([1, math.nan, 3], nan_ok=True)
    elsewhere = queries.pa.table({"model": ["a", "c"], "layer": [5, 0], "head": [0, 0]})
    assert np.isnan(grids.at(elsewhere, found)).all()
