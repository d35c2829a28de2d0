"""Gate gradients against finite differences of the loss, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.gradients import Gradients, gate_gradients
from precompute.heads import measure_heads
from precompute.probe import Probe
from precompute.readout import Classifier, Native, Nothing
from tests.precompute import slow
from tests.precompute.vits import as_subject, as_vit, batch_of, built, images, tiny, untouched

NAMES = ["class token", "norms everywhere", "attention pooling", "gated, norm over joined heads",
         "parallel scaling, one projection", "parallel things", "BEiT",
         "EVA-02, norm over joined heads", "DINOv3", "SAM", "Swin", "PiT distilled", "CaiT"]
EPS = 1e-4


def _probe(width: int) -> Probe:
    draw = torch.Generator().manual_seed(5)
    return Probe(torch.randn(2, 3, width, generator=draw, dtype=torch.float64),
                 torch.randn(2, 3, generator=draw, dtype=torch.float64), ("a", "b", "c"),
                 torch.arange(3), torch.tensor([1, 0, 1]))


def _double(name: str) -> nn.Module:
    return copy.deepcopy(built(name)).double()


def _gradients(model: nn.Module, pixels: Tensor, labels: list[int],
               numbers: list[int] | None = None, classifier: Classifier | None = None) -> Gradients:
    with untouched(model):
        return gate_gradients(model, as_vit(model).anatomy, pixels, classifier or Native(model),
                              torch.tensor(labels), torch.tensor(numbers or range(len(labels))))


def _losses(outcome: slow.Outcome, classes: Tensor, probe: Probe | None) -> Tensor:
    embedding, logits = outcome
    if probe is not None:  # each image by the regression of its own fold
        logits = torch.stack([probe.weight[fold] @ e + probe.bias[fold]
                              for fold, e in zip(probe.folds, embedding, strict=True)])
    return F.cross_entropy(logits, classes, reduction="none")


def _slope(model: nn.Module, pixels: Tensor, head: slow.Head, classes: Tensor,
           probe: Probe | None) -> Tensor:
    """Each image's central difference of its own loss."""
    more, less = (_losses(slow.scaled(model, pixels, head, 1 + step), classes, probe)
                  for step in (EPS, -EPS))
    return (more - less) / (2 * EPS)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slopes_of_each_images_loss(name: str) -> None:
    model = _double(name)
    pixels = images(model, 3).double()
    found = _gradients(model, pixels, [2, -1, 0])
    logits = slow.outcome(model, pixels)[1]
    classes = torch.tensor([2, int(logits[1].argmax()), 0])
    heads = slow.heads_of(model)
    assert [g.shape[1] for g in found] == [sum(h[0] == i for h in heads) for i in range(len(found))]
    for layer, head in heads[::2]:
        wanted = _slope(model, pixels, (layer, head), classes, None)
        assert wanted.abs().max() > 1e-3, "no slope, no test"
        torch.testing.assert_close(found[layer][:, head].double(), wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_probe_are_those_of_each_images_own_fold() -> None:
    model = _double("class token")
    pixels, probe = images(model, 3).double(), _probe(24)
    found = _gradients(model, pixels, [0, 1, 2], classifier=probe)
    for layer, head in slow.heads_of(model):
        wanted = _slope(model, pixels, (layer, head), torch.tensor([0, 1, 2]), probe)
        torch.testing.assert_close(found[layer][:, head].double(), wanted, rtol=1e-4, atol=1e-6)


def test_without_a_classifier_there_is_no_slope() -> None:
    model = built("no classifier")
    found = _gradients(model, images(model, 2), [-1, -1], classifier=Nothing())
    assert [g.shape for g in found] == [(2, 3)] * 3
    assert all(g.isnan().all() for g in found)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = _double("class token")
    pixels, labels = images(model, 4).double(), [0, 3, -1, 2]
    together = _gradients(model, pixels, labels)
    for i in range(4):
        alone = _gradients(model, pixels[i:i + 1], labels[i:i + 1], [i])
        for found, wanted in zip(alone, together, strict=True):
            torch.testing.assert_close(found[0], wanted[i], rtol=1e-5, atol=1e-7)


def test_the_absolute_value_is_taken_image_by_image() -> None:
    """Images whose slopes differ in sign do not cancel: the stored mean is that of the sizes."""
    model = built("class token")
    batch = batch_of(model, 4)
    rows = measure_heads(as_subject(model, "fast"), batch)["head_scores"].to_pylist()
    found = _gradients(model, batch.pixels, [0, -1, 2, 3])
    for row in rows:
        slope = found[row["layer"]][row["image"], row["head"]].item()
        assert row["gate_gradient"] == pytest.approx(abs(slope), rel=1e-4, abs=1e-7)
        assert row["taylor"] == pytest.approx(-slope, rel=1e-4, abs=1e-7)
    assert {row["taylor"] > 0 for row in rows} == {True, False}


def test_taylor_is_about_the_rise_of_the_loss_where_effects_are_small() -> None:
    model = tiny()
    for block in model.blocks:
        block.attn.proj.weight.data *= 0.01
    rows = measure_heads(as_subject(model, "fast"), batch_of(model, 4))["head_scores"].to_pylist()
    rows = [row for row in rows if row["loss_increase"] is not None]
    largest = max(abs(row["loss_increase"]) for row in rows)
    assert len(rows) == 3 * 9 and 1e-4 < largest < 0.1
    assert {row["loss_increase"] > 0 for row in rows} == {True, False}
    for row in rows:
        assert row["taylor"] == pytest.approx(row["loss_increase"], rel=0.02, abs=0.02 * largest)


def test_gradients_are_had_where_the_rest_keeps_none() -> None:
    """The engine runs under no_grad, and models come without gradients of their own."""
    model = copy.deepcopy(built("class token")).requires_grad_(False)
    with torch.no_grad():
        found = _gradients(model, images(model, 2), [1, 2])
    assert all(g.abs().min() > 0 and not g.requires_grad for g in found)
    assert all(p.grad is None for p in model.parameters())
