"""The stages of a model's analysis: what each measures, on how many images, and what it costs.

A new stage is one entry of STAGES (or of DERIVED, if it only reads the store) and one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from precompute.agreement import head_ablations, rank_agreement
from precompute.anatomy import Anatomy
from precompute.batches import Batch
from precompute.curves import pruning_areas, pruning_curves
from precompute.describe import embed_batch
from precompute.heads import measure_heads, measure_layers, measure_parts
from precompute.kept import keep_attention
from precompute.orders import Order, fractions
from precompute.samples import LARGEST, SMALLEST
from precompute.sets import measure_curves, measure_pairs
from precompute.subject import Subject
from precompute.summaries import summarise
from precompute.synergy import head_pairs
from store import places
from store.reader import Store
from store.schema import MODES, RANKED

Fixed = Mapping[str, Any]
Measure = Callable[[Subject, Batch, Fixed], dict[str, pa.Table]]

RANDOM_ORDERS, PAIRS = 20, 56
WATCHED = 5.0
"""Forward passes that the clean pass of the head stages is worth: statistics and a gradient."""


@dataclass(frozen=True)
class Stage:
    """`images`: how many it is done on unless asked otherwise (None: all of them). `passes`: what
    an image costs, in forward passes, of a model and with so many draws. `after`: it needs the
    head stage's rows. `reference`: it needs mean head outputs, `donors`: those of other images too.
    `judges`: its images are those that do not rank the heads. `largest`: most images in a unit."""

    name: str
    tables: tuple[str, ...]
    images: int | None
    measure: Measure
    passes: Callable[[Anatomy, int], float]
    after: bool = False
    reference: bool = False
    donors: bool = False
    judges: bool = False
    largest: int = LARGEST


@dataclass(frozen=True)
class Derived:
    """A table that is made from the units of these stages, once the first of them has any."""

    table: str
    reads: tuple[str, ...]
    make: Callable[[Store, str], pa.Table]


def sweep(anatomy: Anatomy) -> float:
    """Forward passes' worth of carrying every head once: from its layer to the end."""
    depth = anatomy.depth
    return sum(heads * (depth - layer) / depth for layer, heads in enumerate(anatomy.heads))


def _layers(anatomy: Anatomy) -> float:
    return sum((anatomy.depth - layer) / anatomy.depth for layer in range(anatomy.depth))


def _points(anatomy: Anatomy) -> int:
    return (2 * len(RANKED) + RANDOM_ORDERS) * len(fractions(sum(anatomy.heads)))


def _heads(ablation: str) -> Measure:
    return lambda subject, batch, _fixed: measure_heads(subject, batch, ablation)


def orders_of(fixed: Fixed) -> list[Order]:
    """Orders as they were registered."""
    return [Order(measure, order, tuple((layer, head) for layer, head in heads))
            for measure, order, heads in fixed["orders"]]


def _measure_curves(subject: Subject, batch: Batch, fixed: Fixed) -> dict[str, pa.Table]:
    return measure_curves(subject, batch, orders_of(fixed), fixed["steps"])


def _measure_pairs(subject: Subject, batch: Batch, fixed: Fixed) -> dict[str, pa.Table]:
    return measure_pairs(subject, batch, [((a, b), (c, d)) for (a, b), (c, d) in fixed["pairs"]])


STAGES: dict[str, Stage] = {stage.name: stage for stage in (
    Stage("clean", ("embeddings",), None,
          lambda subject, batch, _fixed: {"embeddings": embed_batch(
              subject.name, subject.vit, batch)}, lambda _a, _r: 1),
    Stage("heads", ("head_scores", "head_strength", "pattern_inputs"), None, _heads("zero"),
          lambda a, _r: sweep(a) + WATCHED),
    Stage("attention", ("attention",), 8,
          lambda subject, batch, _fixed: keep_attention(subject, batch), lambda _a, _r: 2,
          largest=SMALLEST),
    Stage("mean", ("head_scores",), 32, _heads("mean"), lambda a, _r: sweep(a) + WATCHED,
          reference=True),
    Stage("resample", ("head_scores",), 32, _heads("resample"),
          lambda a, draws: sweep(a) * draws + WATCHED, reference=True, donors=True),
    Stage("leave_one_in", ("head_scores",), 0, _heads("leave_one_in"),
          lambda a, _r: sweep(a) + WATCHED),
    Stage("layer", ("layer_scores",), 32,
          lambda subject, batch, _fixed: measure_layers(subject, batch),
          lambda a, _r: _layers(a) + 1),
    Stage("partial", ("partial_pruning",), 8,
          lambda subject, batch, _fixed: measure_parts(subject, batch),
          lambda a, _r: sweep(a) * len(MODES) + 1),
    Stage("curves", ("pruning_points",), 24, _measure_curves, lambda a, _r: _points(a) + 1,
          after=True, judges=True),
    Stage("pairs", ("pair_scores",), 16, _measure_pairs, lambda _a, _r: PAIRS * 0.8 + 1,
          after=True),
)}
"""In the order in which they are done."""

ROWS: dict[str, Callable[[Anatomy], int]] = {
    "embeddings": lambda _a: 1,
    "head_scores": lambda a: sum(a.heads),
    "head_strength": lambda a: sum(a.heads),
    "pattern_inputs": lambda a: sum(a.heads),
    "attention": lambda a: sum(a.heads),
    "layer_scores": lambda a: a.depth,
    "partial_pruning": lambda a: sum(a.heads) * len(MODES),
    "pruning_points": _points,
    "pair_scores": lambda _a: PAIRS,
}
"""Rows that an image makes in a table."""

SAMPLED = tuple(name for name, stage in STAGES.items() if stage.images is not None)
"""Those that are done on a sample of the images."""

_ABLATIONS = ("heads", "mean", "resample", "leave_one_in")


def _pruning_curves(store: Store, model: str) -> pa.Table:
    fixed = places.read_sample(store.path, model, "curves")["fixed"]
    return pruning_curves(store, model, fixed["ranking_images"])


def _pruning_areas(store: Store, model: str) -> pa.Table:
    return pruning_areas(store.query("FROM pruning_curves WHERE model = ?", [model]), model)


DERIVED: tuple[Derived, ...] = (
    Derived("heads", ("heads", "attention"), summarise),
    Derived("head_ablations", _ABLATIONS, head_ablations),
    Derived("rank_agreement", _ABLATIONS, rank_agreement),
    Derived("pruning_curves", ("curves",), _pruning_curves),
    Derived("pruning_areas", ("curves",), _pruning_areas),
    Derived("head_pairs", ("pairs", "heads"), head_pairs),
)
"""In an order in which each finds what it reads."""
