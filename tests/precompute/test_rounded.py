"""The sweep in bfloat16: near float32, not equal, and fair to heads that do nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from precompute.ablation import one_each, zero
from precompute.clean import clean_pass
from precompute.heads import measure_heads
from precompute.readout import embeddings
from precompute.rounded import Rounded
from precompute.sets import HeadSet, carry_sets
from precompute.subject import Unpruned
from tests.precompute import slow
from tests.precompute.vits import as_subject, as_vit, batch_of, built, images, untouched

NAMES = ["class token", "norms everywhere", "attention pooling", "parallel things", "BEiT",
         "DINOv3", "EVA-02, norm over joined heads", "Swin", "SAM", "PiT", "CaiT"]


def _engine(model: nn.Module) -> str:
    return "fast" if as_vit(model).anatomy.plain else "tail"


@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_small_and_not_zero(name: str) -> None:
    model = built(name)
    anatomy, pixels = as_vit(model).anatomy, images(model, 2)
    with untouched(model):
        clean = clean_pass(model, anatomy, pixels)
        carrier = Rounded(_engine(model), model, anatomy)
        off = []
        for number, layer in enumerate(anatomy.layers):
            heads = clean.calls[number].heads
            found = carrier.carry(clean, number, one_each(heads, zero(heads), layer, range(1)))
            assert found.features.dtype == found.block_output.dtype == torch.float32
            wanted = slow.reference(model, pixels, number, 0)
            embedding = embeddings(model, found.features)[0]
            off.append(((embedding - wanted).norm() / wanted.norm()).item())
    assert all(1e-5 < error < 0.1 for error in off), off


@pytest.mark.parametrize("name", NAMES)
def test_what_changes_nothing_has_no_effect_at_all(name: str) -> None:
    """Unchanged heads, at whatever layer they are handed in: rounding is no effect of theirs."""
    model = built(name)
    batch = batch_of(model, 2)
    subject = as_subject(model, _engine(model), precision="bfloat16")
    unpruned = Unpruned(subject, batch, clean_pass(model, subject.vit.anatomy, batch.pixels))
    for layer, call in enumerate(unpruned.clean.calls):
        outcome = unpruned.carry(layer, call.heads[None])
        assert torch.equal(outcome.embedding[0], outcome.clean.embedding)
        assert torch.equal(outcome.logits[0], outcome.clean.logits)
        assert torch.equal(outcome.block_output[0], outcome.clean.block_output)
        exact = slow.outcome(model, batch.pixels)[0]
        assert not torch.equal(outcome.clean.embedding, exact)


def test_stored_effects_are_near_those_of_float32() -> None:
    model = built("class token")
    batch = batch_of(model, 3)
    rounded, exact = (measure_heads(as_subject(model, "fast", precision=precision), batch)[
        "head_scores"].to_pylist() for precision in ("bfloat16", "float32"))
    off = [abs(a["embedding_l2"] - b["embedding_l2"]) for a, b in zip(rounded, exact, strict=True)]
    assert 1e-5 < max(off) < 0.05
    for a, b in zip(rounded, exact, strict=True):  # the clean pass is float32 in both
        assert (a["confidence"], a["direct_logit"], a["taylor"]) == \
            (b["confidence"], b["direct_logit"], b["taylor"])


def test_gates_are_rounded_too() -> None:
    model = built("class token")
    batch = batch_of(model, 2)
    subject = as_subject(model, "fast", precision="bfloat16")
    unpruned = Unpruned(subject, batch, clean_pass(model, subject.vit.anatomy, batch.pixels))
    heads = [(0, 1), (2, 0)]
    found = carry_sets(unpruned, [HeadSet(0, frozenset(heads))])
    wanted = slow.without(model, batch.pixels, heads)[0]
    assert (found.embedding[0] - wanted).norm() / wanted.norm() < 0.05
    assert (found.clean.embedding - wanted).norm() / wanted.norm() > 0.1


def test_another_batch_is_rounded_anew() -> None:
    """The engine keeps the last clean pass that it rounded: not the one before."""
    model = built("class token")
    anatomy = as_vit(model).anatomy
    carrier = Rounded("tail", model, anatomy)
    found = []
    for seed in (1, 2, 1):
        clean = clean_pass(model, anatomy, images(model, 2, seed))
        found.append(carrier.carry(clean, 1, clean.calls[1].heads[None]).features)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
