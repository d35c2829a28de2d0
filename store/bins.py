"""Bins of a histogram whose width is a power of two and whose edges are its multiples.

So a value is in the same bin in float32 and in float64, bins of one width are bins of every larger
one merged, and what was counted once per image serves every range that is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOST = 64
"""Bins of a histogram, at most; more than half as many where the values are not all the same."""

SQL_WIDTH = "coalesce(power(2, ceil(log2(nullif(max(v) - min(v), 0) / ($bins - 1)))), 1)"
"""As `exponent`, of all values v."""


def exponent(low: float, high: float, most: int = MOST) -> int:
    """The k of the smallest bins, 2^k wide, of which `most` cover [low, high]; 0 for one value."""
    return math.ceil(math.log2((high - low) / (most - 1))) if high > low else 0


def place(values: np.ndarray, k: int) -> np.ndarray:
    """int32[...]: the bin of each value, [b 2^k, (b + 1) 2^k); none may be undefined."""
    return np.floor(np.ldexp(values, -k)).astype(np.int32)


@dataclass(frozen=True)
class Counts:
    """How many rows of an array [row, image] are in each bin on each image.

    `low`, `high`: the range of the values, NaN where none is defined. `k`, `first`: the width of
    the bins, 2^k, and the number of the first. `counts`: int[image, bin].
    """

    low: float
    high: float
    k: int
    first: int
    counts: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes

    @staticmethod
    def of(values: np.ndarray) -> Counts:
        """Count float32[row, image]; NaN is in no bin."""
        rows, images = values.shape
        kind = np.uint8 if rows < 256 else np.uint16
        known = np.isfinite(values)
        if not known.any():
            return Counts(math.nan, math.nan, 0, 0, np.zeros((images, 1), kind))
        low, high = float(values[known].min()), float(values[known].max())
        k = exponent(low, high)
        first, last = place(np.array([low, high]), k).tolist()
        counts = np.zeros((images, last - first + 1), kind)
        image = np.arange(images)
        for row, there in zip(values, known, strict=True):
            counts[image[there], place(row[there], k) - first] += 1
        return Counts(low, high, k, first, counts)

    def over(self, passing: np.ndarray, k: int) -> Filled:
        """Of bins 2^k wide, no narrower than these: how many rows on how many images, of all and
        of those that pass, bool[image]."""
        bins = np.arange(self.first, self.first + self.counts.shape[1]) >> (k - self.k)
        more = 2 * np.count_nonzero(passing) > len(passing)
        kept = self.everything - self._sums(~passing) if more else self._sums(passing)
        return Filled.of(bins, self.everything, kept)

    @cached_property
    def everything(self) -> np.ndarray:
        """float32[bin]: over all images."""
        return self._sums(np.ones(len(self.counts), bool))

    def _sums(self, images: np.ndarray) -> np.ndarray:
        return np.add.reduce(self.counts.compress(images, 0).astype(np.float32), 0)


@dataclass(frozen=True)
class Row:
    """One head's measure, float32[image], NaN where undefined; asked as `Counts` is."""

    values: np.ndarray

    @property
    def low(self) -> float:
        return float(np.fmin.reduce(self.values))

    @property
    def high(self) -> float:
        return float(np.fmax.reduce(self.values))

    def over(self, passing: np.ndarray, k: int) -> Filled:
        known = np.isfinite(self.values)
        return Filled.of(place(self.values[known], k), np.ones(known.sum(), int), passing[known])


@dataclass(frozen=True)
class Filled:
    """The bins that hold anything, by number, int[bin]; how much of everything is in each and how
    much of what passes, int[bin] each."""

    bins: np.ndarray
    everything: np.ndarray
    kept: np.ndarray

    @staticmethod
    def of(bins: np.ndarray, everything: np.ndarray, kept: np.ndarray) -> Filled:
        """Add up what is in the same bin."""
        first = int(bins.min(initial=0))
        sums = [np.rint(np.bincount(bins - first, weights)).astype(np.int64)
                for weights in (everything, kept)]
        some = np.flatnonzero(sums[0])
        return Filled(some + first, sums[0][some], sums[1][some])
