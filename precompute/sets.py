"""Sets of heads pruned together, across layers: pruning curves and pairs.

A set starts at the first layer in which it prunes anything; what it prunes later is a gate on the
way. Sets are carried in order of their first layer, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from precompute.batches import Batch
from precompute.clean import clean_pass
from precompute.importance import (
    Outcome,
    embedding_l2,
    flip,
    js_divergence,
    probability,
    probability_drop,
)
from precompute.orders import Order
from precompute.subject import Subject, Unpruned
from precompute.sweep import ROW_TOKENS
from store.writer import to_table

Head = tuple[int, int]
Pair = tuple[Head, Head]


@dataclass(frozen=True)
class HeadSet:
    """Heads pruned together, as (layer, head); `number` is its place in what was asked for."""

    number: int
    heads: frozenset[Head]

    @property
    def first(self) -> int:
        """The first layer in which it prunes anything."""
        return min((layer for layer, _ in self.heads), default=0)


@torch.no_grad()
def measure_curves(subject: Subject, batch: Batch, orders: Sequence[Order], steps: Sequence[int],
                   ) -> dict[str, pa.Table]:
    """The rows of `pruning_points`: each order cut off after each number of heads."""
    asked = [(order, pruned) for order in orders for pruned in steps]
    sets = [HeadSet(i, frozenset(order.heads[:pruned])) for i, (order, pruned) in enumerate(asked)]
    found = _outcomes(subject, batch, sets, (flip, probability, embedding_l2, _right))
    return {"pruning_points": to_table("pruning_points", {
        **_grain(subject, batch, len(asked)),
        "measure": [order.measure for order, _ in asked] * len(batch.images),
        "order": [order.order for order, _ in asked] * len(batch.images),
        "pruned": [pruned for _, pruned in asked] * len(batch.images),
        "agree": _truth(1 - found[0]), "correct": _truth(found[3]),
        "probability": found[1], "embedding_l2": found[2]})}


@torch.no_grad()
def measure_pairs(subject: Subject, batch: Batch, pairs: Sequence[Pair]) -> dict[str, pa.Table]:
    """The rows of `pair_scores`: both heads of every pair pruned."""
    sets = [HeadSet(i, frozenset(pair)) for i, pair in enumerate(pairs)]
    found = _outcomes(subject, batch, sets, (probability_drop, js_divergence, embedding_l2))
    columns = zip(("layer", "head", "other_layer", "other_head"),
                  zip(*((*a, *b) for a, b in pairs), strict=True), strict=True)
    return {"pair_scores": to_table("pair_scores", {
        **_grain(subject, batch, len(pairs)),
        **{name: list(values) * len(batch.images) for name, values in columns},
        "probability_drop": found[0], "js_divergence": found[1], "embedding_l2": found[2]})}


def _outcomes(subject: Subject, batch: Batch, sets: Sequence[HeadSet], measures: Sequence,
              ) -> list[np.ndarray]:
    """Each measure of every image and set, image by image, in the order asked for."""
    vit = subject.vit
    unpruned = Unpruned(subject, batch, clean_pass(vit.model, vit.anatomy, batch.pixels))
    found = [torch.full((len(sets), len(batch.images)), torch.nan, dtype=torch.float64)
             for _ in measures]
    for some in _together(sets, subject, len(batch.images)):
        outcome = carry_sets(unpruned, some)
        numbers = [one.number for one in some]
        for column, measure in zip(found, measures, strict=True):
            column[numbers] = measure(outcome).cpu().double()
    return [column.T.flatten().numpy() for column in found]


def carry_sets(unpruned: Unpruned, sets: Sequence[HeadSet]) -> Outcome:
    """The outcome of each set of heads set to 0, a variant each."""
    anatomy = unpruned.subject.vit.anatomy
    start = min(one.first for one in sets)
    heads = unpruned.clean.calls[start].heads
    gates = {layer: gate for layer in range(start, anatomy.depth)
             if not (gate := _gate(sets, layer, anatomy.heads[layer]).to(heads)).all()}
    first = gates.pop(start, None)
    variants = heads.expand(len(sets), *heads.shape)
    if first is not None:
        widths = torch.tensor([a.width for a in anatomy.layers[start].attentions
                               for _ in range(a.heads)], device=heads.device)
        variants = variants * first.repeat_interleave(widths, -1)[:, None, None]
    return unpruned.carry(start, variants, gates)


def _gate(sets: Sequence[HeadSet], layer: int, heads: int) -> Float[Tensor, "variant head"]:
    """0 where a set prunes a head of this layer, else 1."""
    return torch.tensor([[float((layer, head) not in one.heads) for head in range(heads)]
                         for one in sets])


def _together(sets: Sequence[HeadSet], subject: Subject, images: int) -> Iterator[list[HeadSet]]:
    """Sets of like first layers, about ROW_TOKENS tokens at a time."""
    tokens = max(layer.geometry.tokens for layer in subject.vit.anatomy.layers)
    step = max(1, ROW_TOKENS[subject.vit.device.type] // (images * tokens))
    ordered = sorted(sets, key=lambda one: one.first)
    for start in range(0, len(ordered), step):
        yield ordered[start:start + step]


def _right(outcome: Outcome) -> Float[Tensor, "head image"]:
    """1 where the label is predicted, 0 where not, NaN without a label."""
    labels = outcome.clean.labels
    if outcome.logits is None:
        return torch.full(outcome.embedding.shape[:2], torch.nan, dtype=torch.float64)
    found = (outcome.logits.argmax(-1) == labels).double()
    return torch.where(labels >= 0, found, torch.nan)


def _grain(subject: Subject, batch: Batch, each: int) -> dict[str, object]:
    return {"model": [subject.name] * (each * len(batch.images)),
            "image": np.repeat(np.asarray(batch.images), each)}


def _truth(values: np.ndarray) -> pa.Array:
    return pa.array(np.nan_to_num(values) > 0.5, mask=np.isnan(values))
