"""Names of attention patterns, by rules on what a head does on average.

The rules are a table of records; the first whose score is what it needs names the head, and one
that no rule fits is `mixed`. Scores of masses are in excess of a head that looks at all it sees
alike, on the same grid: (m - u) / (1 - u), 0 for such a head and 1 for a pure one, whatever the
grid. Those of kernels are shares of the canonical kernel, which has one size for all grids.

A head may look evenly all over the image or pick out a few patches that differ from one image, and
one query, to the next: after averaging both are flat. The entropy of single rows tells them apart,
and so a random head is `uniform`, `global` or `scattered`, the more peaked its rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from store.canon import NEAR_SIDE, PATCH

PerHead = Float[np.ndarray, "head"]

MIXED = "mixed"
"""The name where no rule holds."""

NEARLY = 0.85
"""The part of what a rule needs that is close to it."""

REACH = NEAR_SIDE // 2
MIDDLE = PATCH.side // 2


@dataclass(frozen=True)
class Traits:
    """What the rules judge heads by: means over images, and their masses in excess of uniform.

    `near` is the kernel in patches, `kernel` the canonical one, `even` the mean entropy of rows
    over the largest that it can be.
    """

    excess: Mapping[str, PerHead]
    near: Float[np.ndarray, "head near_dy near_dx"]
    kernel: Float[np.ndarray, "head dy dx"]
    even: PerHead

    @cached_property
    def peak(self) -> Int[np.ndarray, "head axis"]:
        """How far down and right, in patches, the brightest spot near the query is, itself aside.
        """
        others = self.near.copy()
        others[:, REACH, REACH] = -1
        brightest = others.reshape(-1, NEAR_SIDE ** 2).argmax(1)
        return np.stack(np.unravel_index(brightest, others.shape[1:]), axis=1) - REACH

    @cached_property
    def lean(self) -> Float[np.ndarray, "head axis"]:
        """What of the kernel is below the query less what is above it, and right less left."""
        sides = np.sign(np.arange(PATCH.side) - MIDDLE)
        return np.stack([self.kernel.sum(2) @ sides, self.kernel.sum(1) @ sides], axis=1)

    @cached_property
    def arms(self) -> Float[np.ndarray, "head axis"]:
        """What of the kernel is on the vertical and the horizontal axis, beyond what is as far from
        the query off the axes."""
        step = np.arange(PATCH.side) - MIDDLE
        ring = np.rint(np.hypot(step[:, None], step[None])).astype(int)
        off = (step[:, None] != 0) & (step[None] != 0)
        others = sum(2 * self.kernel[:, off & (ring == r)].mean(1) for r in range(1, MIDDLE + 1))
        axes = self.kernel[:, :, MIDDLE], self.kernel[:, MIDDLE]
        return np.stack([axis.sum(1) - axis[:, MIDDLE] - others for axis in axes], axis=1)

    @cached_property
    def aimless(self) -> PerHead:
        """1 - how much the mean head prefers any distance or direction."""
        aims = [self.excess[f"{band}_mass"] for band in ("local", "row", "column", "diagonal")]
        return 1 - np.max([*aims, *np.abs(self.lean.T)], axis=0)

    def at(self, offset: Int[np.ndarray, "head axis"]) -> PerHead:
        """Mean weight at an offset of up to two patches."""
        return self.near[np.arange(len(self.near)), *(offset + REACH).T]


@dataclass(frozen=True)
class Rule:
    """A name, what it means, its score, the score that it needs, and which way such heads look."""

    name: str
    text: str
    score: Callable[[Traits], PerHead]
    needed: float
    ways: Callable[[Traits], list[str]] = lambda traits: [""] * len(traits.even)


@dataclass(frozen=True)
class Named:
    """A head's name, the score of its rule and which way it looks, None where there is none; and
    the scores of all rules."""

    name: str
    score: float | None
    way: str | None
    scores: tuple[float, ...]


def name_heads(traits: Traits) -> list[Named]:
    """The name of every head, by the first rule that holds."""
    scores = np.stack([rule.score(traits) for rule in RULES], axis=1)
    ways = [rule.ways(traits) for rule in RULES]
    return [_named(row, [way[head] for way in ways]) for head, row in enumerate(scores.tolist())]


@runtime_checkable
class Needing(Protocol):
    """A rule, whatever it judges."""

    @property
    def name(self) -> str: ...

    @property
    def needed(self) -> float: ...


def first_held(rules: Sequence[Needing], scores: Sequence[float]) -> str | None:
    """The name of the first rule whose score is what it needs."""
    return next((rule.name for rule, score in zip(rules, scores, strict=True)
                 if score >= rule.needed), None)


def name_of_mean(rules: Sequence[Needing], scores: Sequence[float]) -> tuple[str, bool]:
    """The name that the mean scores of some heads, one for each rule, give, and whether its rule
    holds. Where none does, the closest gives its name if it comes close: the mean of heads that it
    names and of some that it does not just falls short of it."""
    if (held := first_held(rules, scores)) is not None:
        return held, True
    reached = [score / rule.needed for rule, score in zip(rules, scores, strict=True)]
    closest = int(np.argmax(reached))
    return (rules[closest].name, False) if reached[closest] >= NEARLY else (MIXED, True)


def _named(scores: Sequence[float], ways: Sequence[str]) -> Named:
    for rule, score, way in zip(RULES, scores, ways, strict=True):
        if score >= rule.needed:
            return Named(rule.name, score, way or None, tuple(scores))
    return Named(MIXED, None, None, tuple(scores))


def _mass(band: str) -> Callable[[Traits], PerHead]:
    return lambda traits: traits.excess[f"{band}_mass"]


def _line(along: str, across: str) -> Callable[[Traits], PerHead]:
    return lambda traits: (traits.excess[f"{along}_mass"]
                           - traits.excess[f"{across}_mass"].clip(min=0))


def _self(traits: Traits) -> PerHead:
    itself = traits.near[:, REACH, REACH]
    return np.where(itself > traits.at(traits.peak), traits.excess["self_mass"], 0)


def _offset(traits: Traits) -> PerHead:
    peak = traits.at(traits.peak)
    one_sided = peak - traits.at(-traits.peak)
    return np.where(peak > traits.near[:, REACH, REACH], one_sided, 0)


def _plus(traits: Traits) -> PerHead:
    far = np.minimum(traits.excess["row_mass"], traits.excess["column_mass"])
    return np.where(far > 0, traits.arms.min(1), 0)


def _flat(traits: Traits, even: bool) -> PerHead:
    return np.where((traits.even >= EVEN) == even, traits.aimless, 0)


def _steps(traits: Traits) -> list[str]:
    """Such as `1 left` or `2 up, 1 right`."""
    return [", ".join(f"{abs(size)} {word[size > 0]}" for size, word in zip(
        peak, WORDS, strict=True) if size) for peak in traits.peak.tolist()]


def _sides(traits: Traits) -> list[str]:
    axes = np.abs(traits.lean).argmax(1).tolist()
    return [WORDS[axis][lean[axis] > 0]
            for axis, lean in zip(axes, traits.lean.tolist(), strict=True)]


WORDS = (("up", "down"), ("left", "right"))

EVEN = 0.6
"""Row entropy, over its largest value, below which a head picks patches out: 28 of 256, say."""

RULES: tuple[Rule, ...] = (
    Rule("sink", "most queries look at the same few patches (3 %) of an image, wherever they are: "
         "excess of what these get", _mass("sink"), 0.3),
    Rule("self", "patches look at themselves, more than at any neighbour: excess of that weight",
         _self, 0.2),
    Rule("offset", "patches look at the one a step or two away, always in the same direction: its "
         "weight beyond that of the opposite one, where it is above that of the patch itself",
         _offset, 0.07, _steps),
    Rule("directional", "patches look to one side: share of the kernel there beyond the opposite "
         "side's", lambda traits: np.abs(traits.lean).max(1), 0.2, _sides),
    Rule("plus", "patches look far along both their row and their column: share of the weaker pair "
         "of arms in the kernel, beyond what is as far off the axes", _plus, 0.06),
    Rule("row", "patches look far along their row: excess, beyond that of the column",
         _line("row", "column"), 0.1),
    Rule("column", "patches look far along their column: excess, beyond that of the row",
         _line("column", "row"), 0.1),
    Rule("diagonal", "patches look far along both diagonals: excess", _mass("diagonal"), 0.1),
    Rule("local", "patches look at those up to a seventh of the side away: excess",
         _mass("local"), 0.2),
    Rule("uniform", "patches look at all others alike: row entropy, over its largest value",
         lambda traits: traits.even, 0.95),
    Rule("global", "patches look all over the image: 1 - the largest preference for a distance "
         "or a direction, where rows are not peaked", lambda traits: _flat(traits, True), 0.9),
    Rule("scattered", "patches pick out a few others by what is there, not by where they are: the "
         "same, where rows are peaked", lambda traits: _flat(traits, False), 0.9),
)
"""In this order: the first that holds names the head."""
