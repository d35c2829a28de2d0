"""Pairs of heads: which, and what pruning both shows, against plain Python."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import numpy as np
import pytest

from precompute.synergy import MEASURES, choose_pairs, head_pairs
from store.reader import Store
from tests.synthetic import make_rows

HEADS = [(layer, head) for layer in range(4) for head in range(3)]
PAIRS = [((0, 1), (0, 2)), ((0, 1), (3, 0)), ((1, 0), (2, 2))]
TOP = [(0, 1), (1, 2), (3, 0)]


def _alone(rng: np.random.Generator) -> list[dict]:
    return [{"model": "m", "image": image, "layer": head[0], "head": head[1], "ablation": ablation,
             **{m: rng.normal() + (5 * (head in TOP) if ablation == "zero" else 9)
                for m in MEASURES}}
            for image in range(6) for head in HEADS for ablation in ("zero", "mean")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Pairs on four of six images; one measure is not known of the last of them."""
    rng = np.random.default_rng(1)
    both = [{"model": "m", "image": image, "layer": a[0], "head": a[1], "other_layer": b[0],
             "other_head": b[1], **{m: rng.normal() for m in MEASURES}}
            for image in (1, 2, 4, 5) for a, b in PAIRS]
    both = [{**r, "js_divergence": None if r["image"] == 5 else r["js_divergence"]} for r in both]
    return make_rows(tmp_path_factory.mktemp("synergy") / "s", head_scores=_alone(rng),
                     pair_scores=both + [{**r, "model": "other"} for r in both])


def test_synergy_is_what_the_sum_of_both_does_not_explain(store: Store) -> None:
    alone = {(r["image"], r["layer"], r["head"]): r for r in store.query(
        "FROM head_scores WHERE ablation = 'zero'").to_pylist()}
    both = store.query("FROM pair_scores WHERE model = 'm'").to_pylist()
    found = head_pairs(store, "m").to_pylist()
    assert [((r["layer"], r["head"]), (r["other_layer"], r["other_head"])) for r in found] == PAIRS
    for r in found:
        own = [p for p in both if all(p[k] == r[k] for k in (
            "layer", "head", "other_layer", "other_head"))]
        assert r["images"] == 4
        for m in MEASURES:
            known = [p for p in own if p[m] is not None]
            together = statistics.fmean(p[m] for p in known)
            apart = sum(statistics.fmean(alone[p["image"], r[layer], r[head]][m] for p in known)
                        for layer, head in (("layer", "head"), ("other_layer", "other_head")))
            assert r[f"{m}_both"] == pytest.approx(together, abs=1e-6)
            assert r[f"{m}_synergy"] == pytest.approx(together - apart, abs=1e-5)


@pytest.mark.parametrize("both", [0.0, 0.5, 0.9])
def test_heads_that_add_up_have_none(tmp_path: Path, both: float) -> None:
    effects = {(0, 0): 0.2, (1, 1): 0.3}
    store = make_rows(
        tmp_path / "s",
        head_scores=[{"model": "m", "image": i, "layer": a, "head": b, "ablation": "zero",
                      "probability_drop": v} for (a, b), v in effects.items() for i in range(3)],
        pair_scores=[{"model": "m", "image": i, "layer": 0, "head": 0, "other_layer": 1,
                      "other_head": 1, "probability_drop": both} for i in range(3)])
    (row,) = head_pairs(store, "m").to_pylist()
    assert row["probability_drop_synergy"] == pytest.approx(both - 0.5, abs=1e-6)
    assert row["embedding_l2_both"] is row["embedding_l2_synergy"] is None


def test_pairs_of_the_top_heads_and_as_many_of_others(store: Store) -> None:
    pairs = choose_pairs(store, "m", heads=3)
    assert pairs == sorted(set(pairs)) and all(a < b for a, b in pairs)
    top = [pair for pair in pairs if set(pair) & set(TOP)]
    assert top == list(itertools.combinations(TOP, 2))
    assert len(pairs) == 2 * len(top)


def test_random_pairs_are_seeded(store: Store) -> None:
    assert choose_pairs(store, "m", 3) == choose_pairs(store, "m", 3)
    assert choose_pairs(store, "m", 3) != choose_pairs(store, "m", 3, seed=1)


@pytest.mark.parametrize(("heads", "wanted"), [(1, 0), (2, 2), (8, 28 + 6), (11, 55), (20, 66)])
def test_small_models_have_fewer_pairs(store: Store, heads: int, wanted: int) -> None:
    assert len(choose_pairs(store, "m", heads)) == wanted


def test_no_pairs_without_rows(store: Store) -> None:
    assert choose_pairs(store, "nobody") == []
    assert head_pairs(store, "nobody").num_rows == 0
