"""Names of class patterns: where in the image a class token looks, by rules on the pattern.

As in `precompute.names` the first rule whose score is what it needs gives the name, and one that no
rule fits is `mixed`. Scores of places are in excess of a uniform class row: (m - u) / (1 - u).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from precompute.names import MIXED, first_held
from store.canon import CLASS

Shares = Float[np.ndarray, "head share"]
PerHead = Float[np.ndarray, "head"]

PATCHES, ITSELF, OTHERS = range(CLASS.cells, CLASS.size)
"""Where a class pattern says what goes to patches, the class token and other prefix tokens."""


@dataclass(frozen=True)
class ClassRule:
    """A name, what it means, its score, and the score that it needs."""

    name: str
    text: str
    score: Callable[[Shares], PerHead]
    needed: float


def class_names(shares: Shares) -> list[str]:
    """The name of every class pattern."""
    return [first_held(RULES, row) or MIXED for row in class_scores(shares).tolist()]


def class_scores(shares: Shares) -> Float[np.ndarray, "head rule"]:
    """The scores of all rules."""
    return np.stack([rule.score(shares) for rule in RULES], axis=1)


def _image(shares: Shares) -> Float[np.ndarray, "head y x"]:
    return shares[:, :CLASS.cells].reshape(-1, CLASS.side, CLASS.side)


def _middle(margin: int) -> Callable[[Shares], PerHead]:
    """What is farther from the rim than so many cells, in excess of its part of the image; below 0
    where the rim has more than its part."""
    inside = slice(margin, CLASS.side - margin)
    even = (CLASS.side - 2 * margin) ** 2 / CLASS.cells
    return lambda shares: (_image(shares)[:, inside, inside].sum((1, 2)) - even) / (1 - even)


def _rim(margin: int) -> Callable[[Shares], PerHead]:
    even = (CLASS.side - 2 * margin) ** 2 / CLASS.cells
    return lambda shares: -_middle(margin)(shares) * (1 - even) / even


def _one_side(shares: Shares) -> PerHead:
    """What one half of the image has more than the other."""
    side = np.sign(np.arange(CLASS.side) - (CLASS.side - 1) / 2)
    image = _image(shares)
    return np.maximum(np.abs(image.sum(2) @ side), np.abs(image.sum(1) @ side))


def _even(shares: Shares) -> PerHead:
    """1 - total variation from a uniform row."""
    return 1 - np.abs(_image(shares) - 1 / CLASS.cells).sum((1, 2)) / 2


RULES: tuple[ClassRule, ...] = (
    ClassRule("itself", "the class token looks at itself: share", lambda s: s[:, ITSELF], 0.5),
    ClassRule("registers", "it looks at prefix tokens other than itself: share",
              lambda s: s[:, OTHERS], 0.5),
    ClassRule("one side", "one half of the image has more than the other: difference of shares",
              _one_side, 0.25),
    ClassRule("middle", "the middle third of the image's area: excess", _middle(3), 0.12),
    ClassRule("rim", "the two outermost of fourteen rows and columns: excess", _rim(2), 0.12),
    ClassRule("whole image", "1 - total variation from a uniform row", _even, 0.85),
)
"""In this order: the first that holds names the pattern."""
