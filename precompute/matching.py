"""Which head of one model is which of another: an assignment, and how likely it is by chance.

Heads are assigned to each other so that the sum of their similarities (`store.similar`) is largest.
The best of many unrelated heads is alike too, most of all where patterns are smooth. So every
similarity is held against a null in which the other model's heads keep what is common among heads
(their row entropies, their shares beside the map, how far the map is from uniform, and how much of
it is on each scale) and lose what is their own, the shape: within each scale, a ring of spatial
frequencies of the map's cosine transform, it is turned in a random direction. Smooth maps have few
directions and need to be more alike than sharp ones; near-uniform heads have none of note and match
nothing.

Of such a turn the mean and the variance of the similarity are known, and it is close to normal, so
that nothing is drawn. The p-value of a match is the chance that the best of all heads of the other
model, so turned, is as similar; of the two, one from each model's side, the larger.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy.fft import dctn
from scipy.optimize import linear_sum_assignment
from scipy.special import log_ndtr
from scipy.stats import false_discovery_control

from precompute.freshness import read_note, write_made
from precompute.progress import Progress
from store import places
from store.canon import KINDS, Kind
from store.reader import Store
from store.schema import TABLES
from store.similar import ROUNDING, Heads, heads_of, similarity, sums
from store.writer import StoreWriter, to_table

Pairs = Float[np.ndarray, "head other_head"]

FALSE_SHARE = 0.05
"""Expected share of false matches among those reported, over the heads of a pair of models."""

TIE = 1e-9
"""Taken off a similarity for heads at different places: decides between equal heads only."""


@dataclass(frozen=True)
class Assignment:
    """Pairs of heads of two models, by their rows; each head is in one pair at most."""

    own: Int[np.ndarray, pair]
    other: Int[np.ndarray, pair]
    similarity: Float[np.ndarray, pair]
    p_value: Float[np.ndarray, pair]
    matched: Bool[np.ndarray, pair]

    def turned(self) -> Assignment:
        """The same from the other model's side."""
        return Assignment(self.other, self.own, self.similarity, self.p_value, self.matched)


def match_all(writer: StoreWriter) -> None:
    """Bring the `head_matches` of every model up to date with the patterns in the store."""
    with writer.lock("matches"):
        heads = heads_of(Store(writer.path, tables=("heads",)))
        made_from = _hash(heads)
        files = {name: places.model_folder(writer.path, name) / "head_matches.parquet"
                 for name in heads}
        if any(read_note(file) != made_from for file in files.values()):
            for name, rows in match_pairs(heads).items():
                write_made(writer, files[name], rows, made_from)


def match_pairs(heads: Mapping[str, Heads]) -> dict[str, pa.Table]:
    """The rows of `head_matches` of every model, against all others."""
    tables = {name: [TABLES["head_matches"].arrow.empty_table()] for name in heads}
    pairs = list(itertools.combinations(heads, 2))
    with Progress("matching heads", len(pairs), "pairs of models") as progress:
        for first, second in pairs:
            found = match(heads[first], heads[second])
            tables[first].append(_rows(heads, first, second, found))
            tables[second].append(_rows(heads, second, first, found.turned()))
            progress.advance(1)
    return {name: pa.concat_tables(parts) for name, parts in tables.items()}


def match(a: Heads, b: Heads) -> Assignment:
    """The assignment of the heads of `a` to those of `b`; equal heads go to the same place."""
    alike = similarity(a, b)
    apart = np.abs(np.arange(len(a))[:, None] / len(a) - np.arange(len(b)) / len(b))
    own, other = linear_sum_assignment(alike - TIE * apart, maximize=True)
    found = alike[own, other]
    mean, spread = by_chance(a, b)
    p_value = np.maximum(best_by_chance(found, mean[own], spread[own]),
                         best_by_chance(found, mean.T[other], spread.T[other]))
    return Assignment(own, other, found, p_value, false_discovery_control(p_value) <= FALSE_SHARE)


def by_chance(a: Heads, b: Heads) -> tuple[Pairs, Pairs]:
    """Mean and standard deviation of the similarity of two heads when the shape of one is turned at
    random within each scale.

    A ring of m modes in which the heads weigh p and q (squared lengths) adds p q / m to the
    variance of their product, whatever their shapes; its mean is 0. No deviation is less than
    rounding may cause.
    """
    products, squares = sums(a, b)
    variance = np.zeros_like(products)
    for name, kind in KINDS.items():
        x, y = (_modes(kind, heads.deviations[name]) for heads in (a, b))
        products -= x @ y.T
        rings = _rings(kind)
        variance += (x ** 2 @ rings) @ (y ** 2 @ rings / rings.sum(0)).T
    scale = squares + ROUNDING
    return (2 * products + ROUNDING) / scale, (2 * np.sqrt(variance) + ROUNDING) / scale


def best_by_chance(found: Float[np.ndarray, head], mean: Pairs, spread: Pairs,
                   ) -> Float[np.ndarray, head]:
    """Chance that the best of a row's heads reaches what was found, if all are normal."""
    below = log_ndtr((found[:, None] - mean) / spread).sum(-1)
    return -np.expm1(below)


def _modes(kind: Kind, deviations: Float[np.ndarray, "head size"],
           ) -> Float[np.ndarray, "head mode"]:
    """The map's cosine transform without its mean; 0 where the head has no such pattern."""
    maps = np.nan_to_num(deviations[:, :kind.cells]).reshape(-1, kind.side, kind.side)
    return dctn(maps, axes=(1, 2), norm="ortho").reshape(-1, kind.cells)[:, 1:]


def _rings(kind: Kind) -> Float[np.ndarray, "mode ring"]:
    """Which ring of spatial frequencies, one wide, each mode is in (1 there, 0 elsewhere)."""
    ring = np.rint(np.hypot(*np.indices((kind.side, kind.side)))).astype(int).ravel()[1:]
    return np.eye(ring.max())[ring - 1]


def _rows(heads: Mapping[str, Heads], model: str, other: str, found: Assignment) -> pa.Table:
    """A row per head of the model; NULL, and not matched, where it was left over."""
    own, others = heads[model], heads[other]
    partner = {int(i): k for k, i in enumerate(found.own)}
    pairs = [partner.get(i) for i in range(len(own))]

    def of_pair(values: np.ndarray) -> list:
        return [None if k is None else values[k] for k in pairs]

    return to_table("head_matches", {
        "model": [model] * len(own), "layer": own.layer, "head": own.head,
        "other_model": [other] * len(own),
        "other_layer": of_pair(others.layer[found.other]),
        "other_head": of_pair(others.head[found.other]),
        "similarity": of_pair(found.similarity), "p_value": of_pair(found.p_value),
        "matched": [k is not None and bool(found.matched[k]) for k in pairs]})


def _hash(heads: Mapping[str, Heads]) -> bytes:
    """A short name for all that is matched."""
    digest = hashlib.sha256()
    for name, own in heads.items():
        digest.update(f"{name}\n{len(own)}\n".encode())
        for values in (own.layer, own.head, *own.deviations.values()):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest().encode()
