"""Curves and areas against sums in plain Python."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest

from precompute.curves import QUANTITIES, pruning_areas, pruning_curves
from store.reader import Store
from tests.synthetic import make_rows

HEADS = 8
PRUNED = (1, 2, 4, 8)
JUDGING = (1, 4, 6)
LEFT = {("flip", "least_first"): (1.0, 0.9, 0.7, 0.1), ("flip", "most_first"): (0.5, 0.2, 0.2, 0.1),
        ("taylor", "least_first"): (0.3, 0.3, 0.1, 0.1),
        ("random", "0"): (0.9, 0.8, 0.3, 0.1), ("random", "1"): (0.4, 0.3, 0.3, 0.1),
        ("random", "10"): (0.9, 0.8, 0.3, 0.1), ("random", "2"): (0.8, 0.1, 0.1, 0.1)}
"""The share that is left of what the unpruned model is, at each of PRUNED."""


def _point(measure: str, order: str, step: int, image: int, native: bool) -> dict:
    left = LEFT[measure, order][step]
    judged = {"agree": left * 10 > image, "correct": left * 10 > image if image != 4 else None,
              "probability": left * 0.5} if native else {}
    return {"model": "m", "image": image, "measure": measure, "order": order,
            "pruned": PRUNED[step], "embedding_l2": 1 - left, **judged}


def _make(path: Path, native: bool) -> Store:
    points = [_point(*key, step, image, native) for key in LEFT for step in range(len(PRUNED))
              for image in JUDGING]
    clean = [{"model": "m", "image": i, "probability": 0.6 + i / 100 if native else None,
              "correct": i == 1 if native and i != 4 else None} for i in range(8)]
    scores = [{"model": "m", "image": i, "layer": h // 4, "head": h % 4, "ablation": "zero"}
              for i in range(2) for h in range(HEADS)]
    strangers = [{**p, "model": "other"} for p in points]
    return make_rows(path, pruning_points=strangers + points[::-1], head_scores=scores,
                     predictions=clean + [{**c, "model": "other"} for c in clean])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _make(tmp_path_factory.mktemp("curves") / "s", native=True)


@pytest.fixture(scope="module")
def curves(store: Store) -> dict[tuple[str, str], list[dict]]:
    rows = pruning_curves(store, "m", 5).to_pylist()
    return {key: list(group) for key, group in itertools.groupby(
        rows, key=lambda r: (r["measure"], r["order"]))}


def test_a_curve_an_order_in_order(curves: dict) -> None:
    assert list(curves) == [("flip", "least_first"), ("flip", "most_first"),
                            ("taylor", "least_first"), ("random", "0"), ("random", "1"),
                            ("random", "2"), ("random", "10")]
    for (measure, _), rows in curves.items():
        assert [r["pruned"] for r in rows] == [0, *PRUNED]
        assert [r["fraction"] for r in rows] == [0, 1 / 8, 1 / 4, 1 / 2, 1]
        assert {r["images"] for r in rows} == {len(JUDGING)}
        assert {r["ranking_images"] for r in rows} == {None if measure == "random" else 5}


def test_it_starts_at_the_unpruned_model(curves: dict) -> None:
    for rows in curves.values():
        assert (rows[0]["agreement"], rows[0]["embedding_l2"]) == (1, 0)
        assert rows[0]["accuracy"] == 0.5  # of images 1 and 6, the first
        assert rows[0]["probability"] == pytest.approx(statistics.fmean(
            0.6 + i / 100 for i in JUDGING))


def test_points_are_means_over_the_judging_images(curves: dict) -> None:
    for key, rows in curves.items():
        for left, row in zip(LEFT[key], rows[1:], strict=True):
            agree = {i: left * 10 > i for i in JUDGING}
            assert row["agreement"] == pytest.approx(statistics.fmean(agree.values()))
            assert row["accuracy"] == pytest.approx(statistics.fmean([agree[1], agree[6]]))
            assert row["probability"] == pytest.approx(left * 0.5)
            assert row["embedding_l2"] == pytest.approx(1 - left)


def _area(rows: list[dict], quantity: str) -> float:
    return sum((b["fraction"] - a["fraction"]) * (a[quantity] + b[quantity]) / 2
               for a, b in itertools.pairwise(rows))


def test_areas_are_trapezoids_beside_those_of_random_orders(store: Store, curves: dict) -> None:
    found = pruning_areas(pruning_curves(store, "m", 5), "m").to_pylist()
    named = [key for key in curves if key[0] != "random"]
    assert [(r["measure"], r["order"], r["quantity"]) for r in found] == [
        (*key, quantity) for key in named for quantity in QUANTITIES]
    for r in found:
        random = [_area(rows, r["quantity"]) for (m, _), rows in curves.items() if m == "random"]
        area = _area(curves[r["measure"], r["order"]], r["quantity"])
        assert r["area"] == pytest.approx(area)
        assert r["random_orders"] == 4
        assert [r["random_low"], r["random_mean"], r["random_high"]] == pytest.approx(
            [min(random), statistics.fmean(random), max(random)])
        keeps_more = (r["order"] == "least_first") != (r["quantity"] == "embedding_l2")
        beaten = [area > a + 1e-9 if keeps_more else area < a - 1e-9 for a in random]
        assert r["beats"] == pytest.approx(statistics.fmean(beaten))


def test_the_best_order_beats_all_random_ones(store: Store) -> None:
    found = {(r["measure"], r["order"], r["quantity"]): r["beats"]
             for r in pruning_areas(pruning_curves(store, "m", 5), "m").to_pylist()}
    for quantity in ("probability", "embedding_l2"):
        assert found["flip", "least_first", quantity] == 1
        assert found["taylor", "least_first", quantity] < 1
        assert found["flip", "most_first", quantity] > 0


def test_without_a_classifier_only_the_embedding_is_left(tmp_path: Path) -> None:
    store = _make(tmp_path / "s", native=False)
    curves = pruning_curves(store, "m", 5)
    for r in curves.to_pylist():
        assert r["agreement"] is r["accuracy"] is r["probability"] is None
        assert r["embedding_l2"] is not None
    for r in pruning_areas(curves, "m").to_pylist():
        nothing = r["quantity"] != "embedding_l2"
        assert (r["area"] is None) == (r["beats"] is None) == (r["random_mean"] is None) == nothing


def test_no_points_no_curves(store: Store) -> None:
    curves = pruning_curves(store, "nobody", 0)
    assert curves.num_rows == pruning_areas(curves, "nobody").num_rows == 0
