"""Ranks of heads and their intervals, against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from precompute import summaries
from store.reader import Store
from store.schema import RANKED
from tests.synthetic import make_rows

HEADS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
IMAGES = (0, 1, 2, 5, 6, 9, 10)


def _row(image: int, head: tuple[int, int], rng: np.random.Generator) -> dict:
    """Coarse numbers, so that there are ties; `layer_cls_l2` is that of layer 1 alone."""
    drop = 0.9 if head == (1, 0) else float(rng.integers(0, 3)) / 8
    row = {m.name: float(rng.integers(-2, 3)) for m in RANKED}
    row |= {"probability": 1 - drop, "probability_drop": drop, "flip": drop > 0.2,
            "embedding_l2": 0.25, "true_probability_drop": None,
            "layer_cls_l2": drop if head[0] else None,
            "loss_increase": drop if image < 6 else None}
    return {"model": "m", "image": image, "layer": head[0], "head": head[1],
            "ablation": "zero", **row}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(3)
    scores = [_row(image, head, rng) for image in IMAGES for head in HEADS]
    strength = [{"model": "m", "image": r["image"], "layer": r["layer"], "head": r["head"],
                 "nmi": 0.5} for r in scores if r["layer"] == 1]
    others = [r | {"ablation": "mean", "probability_drop": 5.0} for r in scores]
    return make_rows(tmp_path_factory.mktemp("summaries") / "s", models=[
        {"model": "m", "layers": 2}], head_scores=scores + others, head_strength=strength)


@pytest.fixture(scope="module")
def rows(store: Store) -> list[dict]:
    return summaries.summarise(store, "m").to_pylist()


def _values(store: Store, measure: str) -> dict[tuple[int, int], dict[int, float]]:
    found = store.query("SELECT * FROM head_scores WHERE ablation = 'zero'").to_pylist()
    return {head: {r["image"]: float(r[measure]) for r in found
                   if (r["layer"], r["head"]) == head and r[measure] is not None}
            for head in HEADS}


def _mean(values: dict[int, float], times: dict[int, int]) -> float | None:
    count = sum(times[i] for i in values)
    return math.fsum(values[i] * times[i] for i in values) / count if count else None


def _ranks(means: Sequence[float | None], sign: int) -> list[float | None]:
    """By counting who is ahead and who is level."""
    known = [round(sign * m, 7) for m in means if m is not None]
    return [None if m is None else
            1 + sum(k > round(sign * m, 7) for k in known)
            + (sum(k == round(sign * m, 7) for k in known) - 1) / 2 for m in means]


@pytest.mark.parametrize("measure", RANKED, ids=lambda m: m.name)
def test_ranks_are_those_of_the_means(store: Store, rows: list[dict], measure) -> None:
    once = dict.fromkeys(IMAGES, 1)
    means = [_mean(values, once) for values in _values(store, measure.name).values()]
    assert [r[f"{measure.name}_rank"] for r in rows] == _ranks(means, measure.important)
    assert [r[f"{measure.name}_mean"] for r in rows] == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize("name", ["probability", "probability_drop", "taylor", "loss_increase"])
def test_intervals_are_those_of_ranks_on_resamples(store: Store, rows: list[dict],
                                                   name: str) -> None:
    values = _values(store, name)
    once = dict.fromkeys(IMAGES, 1)
    drawn = {i: np.random.default_rng((summaries.SEED, i)).poisson(1.0, summaries.REPLICATES)
             for i in IMAGES}
    sign = next(m.important for m in RANKED if m.name == name)
    ranks = []
    for r in range(summaries.REPLICATES):
        times = {i: int(drawn[i][r]) for i in IMAGES}
        ranks.append(_ranks([_mean(v, once) if _mean(v, times) is None else _mean(v, times)
                             for v in values.values()], sign))
    low, high = np.percentile(np.array(ranks, dtype=float), (2.5, 97.5), axis=0)
    assert [r[f"{name}_rank_low"] for r in rows] == pytest.approx(list(low))
    assert [r[f"{name}_rank_high"] for r in rows] == pytest.approx(list(high))


def test_the_ranks_of_a_measure_add_up(rows: list[dict]) -> None:
    for m in RANKED:
        known = [r[f"{m.name}_rank"] for r in rows if r[f"{m.name}_mean"] is not None]
        assert sum(known) == len(known) * (len(known) + 1) / 2
        for r in rows:
            assert (r[f"{m.name}_rank"] is None) == (r[f"{m.name}_mean"] is None)
            if r[f"{m.name}_rank"] is not None:
                assert 1 <= r[f"{m.name}_rank_low"] <= r[f"{m.name}_rank_high"] <= len(known)


def test_direction_ties_and_gaps(rows: list[dict]) -> None:
    assert [r["probability_rank"] for r in rows] == [r["probability_drop_rank"] for r in rows]
    vital = next(r for r in rows if (r["layer"], r["head"]) == (1, 0))
    assert [vital[f"probability_rank{end}"] for end in ("", "_low", "_high")] == [1, 1, 1]
    assert {r["embedding_l2_rank"] for r in rows} == {3}
    assert [r["layer_cls_l2_rank"] for r in rows] == [None, None, None, 1, 2]
    assert [r["true_probability_drop_rank"] for r in rows] == [None] * 5


def test_strength_may_be_missing_in_some_layers(rows: list[dict]) -> None:
    assert [r["nmi_mean"] for r in rows] == [None, None, None, 0.5, 0.5]
    assert [r["nmi_median"] for r in rows] == [None, None, None, 0.5, 0.5]


def test_images_may_come_in_any_chunks(store: Store, rows: list[dict],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "CHUNK", 2)
    for one, other in zip(rows, summaries.summarise(store, "m").to_pylist(), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


def test_one_image_has_ranks_without_width(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = make_rows(tmp_path / "s", models=[{"model": "m", "layers": 2}],
                      head_scores=[_row(0, head, rng) for head in HEADS])
    for r in summaries.summarise(store, "m").to_pylist():
        assert r["taylor_rank_low"] == r["taylor_rank"] == r["taylor_rank_high"]
