"""Importance measures against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from precompute.importance import IMPORTANCE, Clean, Outcome
from store.schema import CLEAN_PASS
from store.schema import IMPORTANCE as COLUMNS

HEADS, IMAGES, CLASSES = 3, 4, 5


def _outcome(labels=(2, 0, -1, 4), logits: bool = True, class_token: bool = True) -> Outcome:
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    clean = Clean(normal(IMAGES, 6), normal(IMAGES, CLASSES) * 3 if logits else None,
                  torch.tensor(labels), normal(IMAGES, 7, 6))
    return Outcome(clean, normal(HEADS, IMAGES, 6),
                   normal(HEADS, IMAGES, CLASSES) * 3 if logits else None,
                   normal(HEADS, IMAGES, 7, 6), class_token, 2)


def _by_formula(outcome: Outcome, head: int, image: int) -> dict[str, float]:
    before, after = (v.numpy() for v in (outcome.clean.logits[image],
                                         outcome.logits[head, image]))
    p, q = (np.exp(v) / np.exp(v).sum() for v in (before, after))
    m = (p + q) / 2
    c, label = p.argmax(), int(outcome.clean.labels[image])
    second = np.argsort(before)[-2]
    e, f = outcome.clean.embedding[image].numpy(), outcome.embedding[head, image].numpy()
    x, y = outcome.clean.block_output[image].numpy(), outcome.block_output[head, image].numpy()
    change = np.linalg.norm(y - x, axis=-1) / np.linalg.norm(x, axis=-1)
    nan = float("nan")
    return {
        "probability": q[c], "probability_drop": p[c] - q[c],
        "true_probability_drop": p[label] - q[label] if label >= 0 else nan,
        "loss_increase": np.log(p[label]) - np.log(q[label]) if label >= 0 else nan,
        "margin_drop": (before[c] - before[second]) - (after[c] - after[second]),
        "js_divergence": ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2,
        "flip": float(q.argmax() != c),
        "embedding_cosine": 1 - e @ f / np.linalg.norm(e) / np.linalg.norm(f),
        "embedding_l2": np.linalg.norm(f - e) / np.linalg.norm(e),
        "layer_cls_l2": change[0], "layer_patch_l2": change[2:].mean(),
    }


def test_measures_agree_with_their_formulas() -> None:
    outcome = _outcome()
    found = {name: measure(outcome) for name, measure in IMPORTANCE.items()}
    for head in range(HEADS):
        for image in range(IMAGES):
            for name, wanted in _by_formula(outcome, head, image).items():
                assert found[name][head, image].item() == pytest.approx(
                    wanted, rel=1e-9, abs=1e-12, nan_ok=True), name


NEEDS_CLASSIFIER = {"probability", "probability_drop", "true_probability_drop", "loss_increase",
                    "margin_drop", "js_divergence", "flip"}


@pytest.mark.parametrize(("outcome", "undefined"), [
    (_outcome(logits=False, labels=(-1,) * 4), NEEDS_CLASSIFIER),
    (_outcome(class_token=False), {"layer_cls_l2"}),
    (_outcome(labels=(-1,) * 4), {"true_probability_drop", "loss_increase"}),
    (_outcome(labels=(0, 1, 2, 3)), set())])
def test_what_is_undefined_is_nan(outcome: Outcome, undefined: set[str]) -> None:
    assert {name for name, m in IMPORTANCE.items() if m(outcome).isnan().all()} == undefined


def test_no_change_scores_zero() -> None:
    before = _outcome().clean
    same = Outcome(before, before.embedding.expand(HEADS, -1, -1),
                   before.logits.expand(HEADS, -1, -1),
                   before.block_output.expand(HEADS, -1, -1, -1), True, 2)
    for name, measure in IMPORTANCE.items():
        if name != "probability":
            assert measure(same).nan_to_num().abs().max() < 1e-12, name


def test_every_importance_column_has_its_function() -> None:
    assert set(IMPORTANCE) | CLEAN_PASS == {c.name for c in COLUMNS}


def test_one_class_has_no_margin() -> None:
    whole = _outcome()
    clean = Clean(whole.clean.embedding, whole.clean.logits[:, :1], whole.clean.labels.clamp(max=0),
                  whole.clean.block_output)
    one = Outcome(clean, whole.embedding, whole.logits[..., :1], whole.block_output, True, 2)
    assert IMPORTANCE["margin_drop"](one).isnan().all()
    assert (IMPORTANCE["probability"](one) == 1).all()


@pytest.mark.parametrize(("part", "undefined"), [
    ("embedding", {"embedding_l2"}), ("block_output", {"layer_cls_l2", "layer_patch_l2"})])
def test_a_change_relative_to_nothing_is_no_number(part: str, undefined: set[str]) -> None:
    outcome = _outcome()
    getattr(outcome.clean, part).zero_()
    found = {name for name, measure in IMPORTANCE.items() if not measure(outcome).isfinite().all()}
    assert found - {"true_probability_drop", "loss_increase"} == undefined


def test_a_block_without_patches_has_no_change_at_patches() -> None:
    """The class-attention layers of CaiT hand on the class token alone."""
    whole = _outcome()
    clean = Clean(whole.clean.embedding, whole.clean.logits, whole.clean.labels,
                  whole.clean.block_output[:, :1])
    alone = Outcome(clean, whole.embedding, whole.logits, whole.block_output[:, :, :1], True, 1)
    assert IMPORTANCE["layer_patch_l2"](alone).isnan().all()
    assert IMPORTANCE["layer_cls_l2"](alone).isfinite().all()
