"""The probe is honest: it knows nothing of the image that it judges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from precompute.probe import fit_probe, from_bytes, to_bytes

RNG = np.random.default_rng(0)


def _accuracy(embeddings: np.ndarray, labels: list[str]) -> float:
    images = list(range(len(labels)))
    probe = fit_probe(embeddings, images, labels)
    assert probe is not None
    logits = probe.judge(torch.tensor(embeddings, dtype=torch.float32), torch.tensor(images))
    found = [probe.names[i] for i in logits.argmax(-1).tolist()]
    return sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)


def test_labels_that_mean_nothing_are_guessed_at_chance() -> None:
    labels = [("a", "b", "c", "d")[i % 4] for i in range(200)]
    assert _accuracy(RNG.normal(size=(200, 400)), labels) < 0.45


@pytest.mark.parametrize("kinds", [2, 3])
def test_labels_that_show_are_found(kinds: int) -> None:
    where = np.arange(90) % kinds
    embeddings = RNG.normal(size=(90, 20)) + 4 * np.eye(20)[where]
    assert _accuracy(embeddings, [f"k{i}" for i in where]) > 0.9


def test_the_same_after_a_round_trip_and_the_same_again() -> None:
    x, labels = RNG.normal(size=(40, 8)), [f"{i % 2}" for i in range(40)]
    one, again = (fit_probe(x, range(40), labels) for _ in range(2))
    for other in (again, from_bytes(to_bytes(one))):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.folds, other.folds)
        assert one.names == other.names


@pytest.mark.parametrize("labels", [[], [None] * 6, ["a"] * 6, ["a", "b", "c", "d", "e", None],
                                    ["a", "a", "b", None, None, None]])
def test_too_few_labels_give_no_probe(labels: list[str | None]) -> None:
    assert fit_probe(RNG.normal(size=(len(labels), 4)), range(len(labels)), labels) is None


def test_a_rare_label_is_left_out_and_a_later_image_is_judged_unseen() -> None:
    labels = ["a"] * 7 + ["b"] * 2 + ["once"]
    probe = fit_probe(RNG.normal(size=(10, 4)), range(10), labels)
    assert probe.names == ("a", "b")
    assert probe.judge(torch.zeros(2, 4), torch.tensor([9, 99])).shape == (2, 2)
