"""The head stage: one batch of images through the clean pass, an intervention and every measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from precompute.ablation import all_but_one, chunks, masked, one_each, zero
from precompute.attribution import direct_logits, logit_directions
from precompute.batches import Batch
from precompute.canonical import canonical
from precompute.clean import HeadOutputs, Weights, clean_pass
from precompute.gradients import gate_gradients
from precompute.importance import IMPORTANCE, Outcome
from precompute.partial import partial_rows
from precompute.rows import HeadRows, layer_rows
from precompute.strength import STRENGTH, confidence, look
from precompute.subject import Subject, Unpruned
from precompute.sweep import ROW_TOKENS
from store.schema import MODES

Measured = dict[str, Float[Tensor, "head image"]]


@dataclass(frozen=True)
class Cut:
    """A kind of ablation: `others(unpruned, layer, draw)` is what heads put out instead; `take`
    says which slices of a layer are taken from it."""

    others: Callable[[Unpruned, int, int], HeadOutputs]
    take: Callable = one_each
    draws: Callable[[Subject], int] = lambda _subject: 1


def _zeros(unpruned: Unpruned, layer: int, draw: int) -> HeadOutputs:
    return zero(unpruned.clean.calls[layer].heads)


def _means(unpruned: Unpruned, layer: int, draw: int) -> HeadOutputs:
    reference = unpruned.subject.reference
    assert reference is not None, "the mean ablation needs a reference"
    return reference.mean[layer].expand_as(unpruned.clean.calls[layer].heads)


def _donated(unpruned: Unpruned, layer: int, draw: int) -> HeadOutputs:
    reference = unpruned.subject.reference
    assert reference is not None, "the resample ablation needs donors"
    return reference.instead_of(layer, unpruned.images.tolist(), draw)


def _draws(subject: Subject) -> int:
    assert subject.reference is not None, "the resample ablation needs donors"
    return subject.reference.draws


CUTS: dict[str, Cut] = {
    "zero": Cut(_zeros),
    "mean": Cut(_means),
    "resample": Cut(_donated, draws=_draws),
    "leave_one_in": Cut(_zeros, all_but_one),
}
"""The ablations of `store.measures.ABLATIONS`, in its order."""


@torch.no_grad()
def measure_heads(subject: Subject, batch: Batch, ablation: str = "zero") -> dict[str, pa.Table]:
    """The rows of `head_scores` for one batch of images, and with the zero ablation those of
    `head_strength` and `pattern_inputs`."""
    vit, cut = subject.vit, CUTS[ablation]
    rows = HeadRows(subject.name, batch.images)
    sure: list[Tensor] = []

    def watch(layer: int, attention: Weights) -> None:
        looking = look(attention, vit.anatomy.layers[layer].geometry)
        sure.append(confidence(looking))
        if ablation == "zero":
            rows.add_strength({name: measure(looking) for name, measure in STRENGTH.items()})
            rows.add_patterns(canonical(looking))

    unpruned = Unpruned(subject, batch, clean_pass(vit.model, vit.anatomy, batch.pixels, watch))
    gradients = gate_gradients(vit.model, vit.anatomy, batch.pixels, subject.classifier,
                               unpruned.labels, unpruned.images)
    direct = _Direct(unpruned)
    for layer in range(vit.anatomy.depth):
        rows.add_scores({
            **{name: values.T for name, values in _ablated(unpruned, layer, cut).items()},
            "confidence": sure[layer], "direct_logit": direct(layer),
            "gate_gradient": gradients[layer].abs(), "taylor": -gradients[layer]})
    return rows.tables(ablation)


def _ablated(unpruned: Unpruned, layer: int, cut: Cut) -> Measured:
    """Every outcome measure of every head of a layer, averaged over the draws."""
    draws = [_one_draw(unpruned, layer, cut, draw) for draw in range(cut.draws(unpruned.subject))]
    return {name: torch.stack([d[name] for d in draws]).mean(0) for name in draws[0]}


def _one_draw(unpruned: Unpruned, layer: int, cut: Cut, draw: int) -> Measured:
    heads = unpruned.clean.calls[layer].heads
    other = cut.others(unpruned, layer, draw)
    anatomy = unpruned.subject.vit.anatomy
    outcomes = (unpruned.carry(layer, cut.take(heads, other, anatomy.layers[layer], chosen))
                for chosen in chunks(anatomy, layer, heads, ROW_TOKENS[heads.device.type]))
    return _measured(outcomes)


def _measured(outcomes: Iterator[Outcome]) -> Measured:
    parts = [{name: measure(outcome) for name, measure in IMPORTANCE.items()}
             for outcome in outcomes]
    return {name: torch.cat([part[name] for part in parts]) for name in IMPORTANCE}


@torch.no_grad()
def measure_layers(subject: Subject, batch: Batch) -> dict[str, pa.Table]:
    """The rows of `layer_scores`: all heads of a layer set to 0 at once."""
    vit = subject.vit
    unpruned = Unpruned(subject, batch, clean_pass(vit.model, vit.anatomy, batch.pixels))
    layers = []
    for layer, call in enumerate(unpruned.clean.calls):
        outcome = unpruned.carry(layer, zero(call.heads)[None])
        layers.append({name: measure(outcome)[0] for name, measure in IMPORTANCE.items()})
    return {"layer_scores": layer_rows(subject.name, batch.images, layers)}


@torch.no_grad()
def measure_parts(subject: Subject, batch: Batch) -> dict[str, pa.Table]:
    """The rows of `partial_pruning`: every mode on every head."""
    vit = subject.vit
    clean = clean_pass(vit.model, vit.anatomy, batch.pixels, keep_inputs=True)
    unpruned = Unpruned(subject, batch, clean)
    found = [{mode: _under_mode(unpruned, layer, mode) for mode in MODES}
             for layer in range(vit.anatomy.depth)]
    names = [aliases[0] for aliases in vit.class_names] if vit.class_names \
        else getattr(subject.classifier, "names", ())
    return {"partial_pruning": partial_rows(subject.name, batch.images, found,
                                            vit.anatomy.heads, names)}


def _under_mode(unpruned: Unpruned, layer: int, mode: str) -> list[Outcome] | None:
    """The outcomes of a mode on all heads of a layer; None where the layer lacks its token."""
    anatomy = unpruned.subject.vit.anatomy
    call = unpruned.clean.calls[layer]
    other = masked(anatomy.layers[layer], call, mode)
    if other is None:
        return None
    return [unpruned.carry(layer, one_each(call.heads, other, anatomy.layers[layer], chosen))
            for chosen in chunks(anatomy, layer, call.heads, ROW_TOKENS[call.heads.device.type])]


class _Direct:
    """Direct logit attribution of a batch, layer by layer; NaN where it is undefined."""

    def __init__(self, unpruned: Unpruned) -> None:
        self.unpruned = unpruned
        subject = unpruned.subject
        self.directions = None if unpruned.logits is None else logit_directions(
            subject.vit.model, subject.vit.anatomy, unpruned.clean,
            subject.classifier.rows(unpruned.logits.argmax(-1), unpruned.images))

    def __call__(self, layer: int) -> Float[Tensor, "image head"]:
        anatomy = self.unpruned.subject.vit.anatomy
        found = direct_logits(anatomy, self.unpruned.clean, layer, self.directions)
        if found is not None:
            return found
        return torch.full((len(self.unpruned.images), anatomy.heads[layer]), torch.nan)
