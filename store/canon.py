"""The canonical geometry of attention patterns, on which heads of any grid can be compared.

A pattern is one vector of shares in two groups, each of which sums to 1:

- `patch`: the relative-offset kernel, PATCH_SIDE x PATCH_SIDE cells over key minus query in
  fractions of the grid's side, or the window's, from -1 to 1 (down, then right), and [h, 1 - h],
  h the mean of every row's entropy over ln of the patches that it sees;
- `class`: the class row over the image, CLASS_SIDE x CLASS_SIDE cells, and its shares on [patches,
  the class token, other prefix tokens].

Shares are kept as one byte each, of their square root: small ones keep their digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 255
"""The code of a share p is STEPS * sqrt(p), rounded: sqrt(p) is off by at most .002."""


NEAR_SIDE = 5
"""Beside the canonical kernel, the one in patches is kept up to two away: NEAR_SIDE x NEAR_SIDE."""


@dataclass(frozen=True)
class Kind:
    """One kind of pattern: a square map of side `side`, then the shares named in `beside`."""

    name: str
    side: int
    beside: tuple[str, ...]

    @property
    def cells(self) -> int:
        return self.side * self.side

    @property
    def size(self) -> int:
        """Length of the whole vector."""
        return self.cells + len(self.beside)

    @property
    def groups(self) -> tuple[slice, slice]:
        """The parts that sum to 1 each."""
        return slice(0, self.cells), slice(self.cells, self.size)


PATCH = Kind("patch", 13, ("row entropy", "rest"))
CLASS = Kind("class", 14, ("patches", "class", "other prefix"))
KINDS: dict[str, Kind] = {kind.name: kind for kind in (PATCH, CLASS)}


def encode(shares: np.ndarray) -> np.ndarray:
    """Shares (... x size, floats) as bytes of the same shape."""
    return np.rint(STEPS * np.sqrt(np.clip(shares, 0, 1))).astype(np.uint8)


def unpack(codes: np.ndarray) -> np.ndarray:
    """Bytes as shares in float32, each by itself."""
    return np.square(codes.astype(np.float32) / STEPS)


def decode(kind: Kind, codes: np.ndarray) -> np.ndarray:
    """Bytes (... x size) as shares in float32 of the same shape, each group summing to 1 again."""
    shares = unpack(codes)
    for group in kind.groups:
        part = shares[..., group]
        part /= np.maximum(part.sum(-1, keepdims=True), 1e-12)
    return shares
