"""Agreement of rankings, against scipy pair by pair over means made in plain Python."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from precompute import agreement
from precompute.summaries import SEED
from store.reader import Store
from store.schema import ABLATIONS, CLEAN_PASS, OUTCOMES, RANKED
from tests.synthetic import make_rows

HEADS = [(layer, head) for layer in range(3) for head in range(4)]
IMAGES = {"zero": range(12), "mean": range(0, 8), "resample": range(4, 12, 2),
          "leave_one_in": range(8, 12)}
UNKNOWN = ("true_probability_drop", "loss_increase")


def _score(image: int, head: tuple[int, int], ablation: str, rng: np.random.Generator) -> dict:
    """Heads that matter more and more, with noise; layer 0 lacks `layer_cls_l2`."""
    effect = (HEADS.index(head) + rng.normal(0, 3)) / 20
    row: dict = {m.name: effect + rng.normal(0, 0.1) for m in RANKED}
    row |= {"probability": 0.5 - effect, "probability_drop": effect, "flip": effect > 0.2,
            "embedding_l2": math.exp(effect), "js_divergence": 0.1, **dict.fromkeys(UNKNOWN)}
    row["layer_cls_l2"] = effect if head[0] else None
    if ablation != "zero":
        row |= dict.fromkeys(CLEAN_PASS, 7.0)
    return {"model": "m", "image": image, "layer": head[0], "head": head[1],
            "ablation": ablation, **row}


def _make(path: Path, images: dict[str, range] = IMAGES) -> Store:
    rng = np.random.default_rng(5)
    rows = [_score(image, head, ablation, rng) for ablation, chosen in images.items()
            for image in chosen for head in HEADS]
    rng.shuffle(rows)
    return make_rows(path, head_scores=rows)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _make(tmp_path_factory.mktemp("agreement") / "s")


@pytest.fixture(scope="module")
def rows(store: Store) -> dict[tuple[str, str, str, str], dict]:
    found = agreement.rank_agreement(store, "m").to_pylist()
    return {(r["measure"], r["ablation"], r["other_measure"], r["other_ablation"]): r
            for r in found}


def _combinations() -> list[tuple[str, str]]:
    return [(m.name, a) for m in RANKED if m.name not in UNKNOWN
            for a in ABLATIONS if a == "zero" or m.name not in CLEAN_PASS]


def _matters(store: Store, measure: str, ablation: str, times: dict[int, int]) -> list[float]:
    """The head's means in the direction in which it matters; NaN where there is none."""
    found = store.query(f"SELECT image, layer, head, {measure} AS v FROM head_scores "
                        "WHERE ablation = ?", [ablation]).to_pylist()
    sign = next(m.important for m in RANKED if m.name == measure)
    sign *= -1 if ablation == "leave_one_in" else 1
    means = []
    for head in HEADS:
        own = [(float(r["v"]), times.get(r["image"], 0)) for r in found
               if (r["layer"], r["head"]) == head and r["v"] is not None]
        weight = sum(n for _, n in own)
        means.append(sign * math.fsum(v * n for v, n in own) / weight if weight else math.nan)
    return [float(np.float32(m)) for m in means]


def _correlations(x: list[float], y: list[float]) -> tuple[float, float]:
    both = [(a, b) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = ([pair[k] for pair in both] for k in (0, 1))
        return float(spearmanr(first, second)[0]), float(kendalltau(first, second)[0])


def _same(found: float | None, wanted: float) -> bool:
    return math.isnan(wanted) if found is None else found == pytest.approx(wanted, abs=1e-6)


def test_one_row_a_pair_in_the_schema_s_order(rows: dict) -> None:
    wanted = [(*one, *other) for one, other in itertools.combinations_with_replacement(
        _combinations(), 2)]
    assert list(rows) == wanted


def test_pairs_agree_as_scipy_says(store: Store, rows: dict) -> None:
    shared = {(a, b): dict.fromkeys(set(IMAGES[a]) & set(IMAGES[b]), 1)
              for a in IMAGES for b in IMAGES}
    matters = {(m, a, b): _matters(store, m, a, shared[a, b])
               for m, a in _combinations() for b in IMAGES}
    for (m, a, n, b), row in rows.items():
        assert row["images"] == len(shared[a, b])
        if (m, a) != (n, b):
            spearman, kendall = _correlations(matters[m, a, b], matters[n, b, a])
            assert _same(row["spearman"], spearman), (m, a, n, b)
            assert _same(row["kendall"], kendall), (m, a, n, b)


def test_a_measure_with_itself_is_its_stability(store: Store, rows: dict) -> None:
    for m, a in (("probability", "zero"), ("flip", "resample"), ("layer_cls_l2", "mean")):
        whole = _matters(store, m, a, dict.fromkeys(IMAGES[a], 1))
        drawn = {i: np.random.default_rng((SEED, i)).poisson(1.0, agreement.RESAMPLES)
                 for i in IMAGES[a]}
        resampled = [_matters(store, m, a, {i: int(drawn[i][r]) for i in IMAGES[a]})
                     for r in range(agreement.RESAMPLES)]
        resampled = [[w if math.isnan(v) else v for v, w in zip(values, whole, strict=True)]
                     for values in resampled]
        wanted = np.nanmean([_correlations(whole, values) for values in resampled], axis=0)
        row = rows[m, a, m, a]
        assert _same(row["spearman"], wanted[0]) and _same(row["kendall"], wanted[1])
        assert 0 < row["spearman"] < 1


def test_the_same_order_agrees_perfectly_whatever_its_direction(rows: dict) -> None:
    for ablation in ABLATIONS:
        row = rows["probability", ablation, "probability_drop", ablation]
        assert (row["spearman"], row["kendall"]) == (1, 1)


def test_what_leaves_much_when_alone_matters(rows: dict) -> None:
    """Effects grow with the number of the head: pruned it matters more, kept it matters less."""
    for measure in ("probability", "probability_drop", "embedding_l2"):
        assert rows[measure, "zero", measure, "mean"]["spearman"] > 0.3
        assert rows[measure, "zero", measure, "leave_one_in"]["spearman"] < -0.3


def test_constant_and_undefined_rankings_and_no_shared_images_are_null(rows: dict) -> None:
    for key, row in rows.items():
        nothing = "js_divergence" in key or {"mean", "leave_one_in"} <= set(key)
        assert (row["spearman"] is None) == (row["kendall"] is None) == nothing, key
    assert rows["flip", "mean", "flip", "leave_one_in"]["images"] == 0


def test_images_may_come_in_any_chunks(store: Store, rows: dict,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "CHUNK", 3)
    for one, other in zip(rows.values(), agreement.rank_agreement(store, "m").to_pylist(),
                          strict=True):
        assert one == pytest.approx(other)


def test_one_image_says_nothing_about_stability(tmp_path: Path) -> None:
    store = _make(tmp_path / "s", {"zero": range(1)})
    for r in agreement.rank_agreement(store, "m").to_pylist():
        itself = r["measure"] == r["other_measure"]
        assert r["images"] == 1
        assert (r["spearman"] is None) == (itself or "js_divergence" in r.values())


def test_a_model_without_rows_has_none(store: Store) -> None:
    assert agreement.rank_agreement(store, "other").num_rows == 0
    assert agreement.head_ablations(store, "other").num_rows == 0


def test_means_of_ablations_are_over_the_images_that_have_them(store: Store) -> None:
    found = agreement.head_ablations(store, "m").to_pylist()
    assert [(r["layer"], r["head"], r["ablation"]) for r in found] == [
        (*head, a) for head in HEADS for a in ABLATIONS]
    scores = store.query("FROM head_scores").to_pylist()
    for r in found:
        own = [s for s in scores if all(s[k] == r[k] for k in ("layer", "head", "ablation"))]
        assert r["images"] == len(own) == len(IMAGES[r["ablation"]])
        for m in OUTCOMES:
            values = [float(s[m.name]) for s in own if s[m.name] is not None]
            wanted = math.fsum(values) / len(values) if values else None
            assert r[f"{m.name}_mean"] == pytest.approx(wanted, abs=1e-6)


def test_correlations_with_ties_and_gaps() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, (4, 30)).astype(float), rng.normal(size=(5, 30))
    first[1, :7], second[2, 4:12], first[3] = np.nan, np.nan, 2
    found = agreement.correlate(first, second)
    for i, j in itertools.product(range(4), range(5)):
        for one, wanted in zip(found, _correlations(list(first[i]), list(second[j])),
                               strict=True):
            assert one[i, j] == pytest.approx(wanted, abs=1e-7, nan_ok=True)
