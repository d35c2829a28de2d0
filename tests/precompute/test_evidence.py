"""The tests of a space: they find what is so, in spaces made to be good or bad at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from precompute.space import autoencoder, clusters, evidence, verdicts
from precompute.space.evidence import Result, Trial
from precompute.space.fitting import fit
from precompute.space.inputs import Means, Single
from store.canon import PATCH
from tests.precompute.patterns_store import shares

HEADS, IMAGES = 8, 10


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((autoencoder, "PASSES", 30), (clusters, "RUNS", 4),
                                    (clusters, "COUNTS", (4, 5)), (evidence, "SEEDS", 3)):
            patch.setattr(module, name, value)
        yield


def patterns(models: dict[str, int], images: int = IMAGES) -> tuple[Single, Means]:
    """Heads of these models; models of one seed have the same heads."""
    looks = np.stack([shares(PATCH, images, HEADS, seed) for seed in models.values()])
    looks = looks.astype(np.float32)
    count = len(models) * images * HEADS
    model = np.repeat(np.array(list(models), object), images * HEADS)
    head = np.tile(np.arange(HEADS), count // HEADS)
    image = np.tile(np.repeat(np.arange(images), HEADS), len(models))
    single = Single(PATCH, model, head * 0, head, looks.reshape(count, -1), image)
    name = np.repeat(np.array(list(models), object), HEADS)
    head = np.tile(np.arange(HEADS), len(models))
    return single, Means(PATCH, name, head * 0, head, looks.mean(1).reshape(len(head), -1), name,
                         np.empty((len(head), 0)))


def trial(models: dict[str, int], images: int = IMAGES, **options: object) -> Trial:
    single, means = patterns(models, images)
    return Trial(fit(single, means, 4), single, means, **options)


@pytest.fixture(scope="module")
def three() -> Trial:
    return trial({"a": 1, "b": 2, "twin": 1}, twins=(("a", "twin"),))


def test_held_out_are_the_patterns_of_some_images(three: Trial) -> None:
    images = three.fitted_on.image
    out = set(images[three.held_out])
    assert 0 < len(out) < IMAGES and not out & set(images[~three.held_out])


def test_every_test_speaks_of_both_spaces_and_in_its_range(three: Trial) -> None:
    for test in verdicts.TESTS:
        rows = verdicts.rows(test, three)
        assert {"autoencoder", "pca"} <= {row["space"] for row in rows}, test.name
        keys = [(row["space"], row["detail"]) for row in rows]
        assert len(set(keys)) == len(keys)
        for row in rows:
            assert np.isfinite(row["value"])
            if not np.isnan(row["low"]):
                assert row["low"] <= row["value"] <= row["high"]
            if row["better"] == -1:
                assert row["value"] >= 0
            else:
                assert -1 <= row["value"] <= 1


def test_the_mean_reconstructs_worst(three: Trial) -> None:
    by_space = {r.space: r.value for r in evidence.held_out_images(three) if not r.detail}
    assert max(by_space, key=by_space.get) == "mean"
    by_size = [r.value for r in evidence.held_out_images(three) if r.space == "pca" and r.detail]
    assert by_size == sorted(by_size, reverse=True)


def test_a_model_is_held_out_from_what_reconstructs_it(three: Trial) -> None:
    """A model whose twin stays is no stranger; the one without a twin is."""
    found = {r.detail: r.value for r in evidence.held_out_model(three) if r.space == "autoencoder"}
    assert set(found) == {"a", "b", "twin"}
    assert found["b"] > 2 * max(found["a"], found["twin"])


def test_of_many_models_only_some_are_held_out(three: Trial) -> None:
    many = dataclasses.replace(three, fitted_on=patterns({f"m{i}": i for i in range(6)}, 2)[0])
    assert {r.detail for r in evidence.held_out_model(many)} == {"m0", "m1", "m2"}


class Owner:
    """A coder that knows whose patterns are whose, or that knows nothing."""

    def __init__(self, knows: bool) -> None:
        self.knows = knows

    def encode(self, rows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(len(rows))
        heads = np.arange(len(rows)) % HEADS
        return heads[:, None] * 1.0 if self.knows else rng.normal(size=(len(rows), 3))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def test_the_same_head_is_found_where_it_can_be() -> None:
    single, _ = patterns({"a": 1}, 20)
    hits, chance, images = evidence._hits(Owner(True), single)
    assert hits.all() and np.allclose(chance, 1 / HEADS) and len(images) == 20 * HEADS
    hits, chance, _ = evidence._hits(Owner(False), single)
    assert abs(hits.mean() - chance.mean()) < 0.1


def test_a_head_is_found_at_another_size_among_its_own(three: Trial) -> None:
    for result in evidence.other_size(three):
        assert result.value == 1 and result.chance == pytest.approx(1 / HEADS)
    shuffled = three.heads.head.copy()
    own = three.heads.model == "twin"
    shuffled[own] = np.roll(shuffled[own], 1)
    moved = dataclasses.replace(three, heads=dataclasses.replace(three.heads, head=shuffled))
    assert all(result.value == 0 for result in evidence.other_size(moved))


def test_neighbours_on_the_map_are_trusted_more_than_shuffled_ones(three: Trial) -> None:
    for result in evidence.trustworthy(three):
        assert result.value > result.chance + 0.1


def test_what_cannot_be_tested_has_no_rows() -> None:
    names = {test.name for test in verdicts.TESTS if verdicts.rows(test, trial({"a": 1}, 1))}
    assert not names & {"held-out images", "model held out", "same head on another image",
                        "same head at another size"}
    alone = {test.name for test in verdicts.TESTS if verdicts.rows(test, trial({"a": 1}))}
    assert "held-out images" in alone and "model held out" not in alone


def test_intervals_are_those_of_drawing_groups() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=300), np.repeat(np.arange(30), 10)
    mean, low, high = evidence._mean(values, groups)
    means = [values[np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 30, 30)])
                    ].mean() for _ in range(3000)]
    assert mean == pytest.approx(values.mean())
    assert [low, high] == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.03)


@pytest.mark.parametrize(("better", "ours", "pca", "says"), [
    (-1, (1.0, 0.9, 1.1), (2.0, 1.9, 2.1), "the autoencoder is better"),
    (-1, (2.0, 1.9, 2.1), (1.0, 0.9, 1.1), "PCA is better"),
    (1, (2.0, 1.9, 2.1), (1.0, 0.9, 1.1), "the autoencoder is better"),
    (1, (1.0, 0.5, 1.5), (1.2, 0.9, 1.6), "PCA is as good"),
    (1, (0.90,), (0.91,), "PCA is as good"),
    (1, (0.80,), (0.91,), "PCA is better"),
])
def test_the_verdict_follows_from_the_numbers(three: Trial, better: int, ours: tuple, pca: tuple,
                                              says: str) -> None:
    test = verdicts.Test("t", lambda _trial: iter(()), better, "What", same=0.05)
    results = [Result("autoencoder", *ours, detail="x"), Result("pca", *pca, detail="x")]
    said = verdicts.sentence(test, results)
    assert said.startswith("What (x): the autoencoder") and said.endswith(f": {says}.")
    rows = verdicts.rows(dataclasses.replace(test, results=lambda _trial: iter(results)), three)
    assert {row["text"] for row in rows} == {said}
