"""Mean and variance of a measure of every head over the images that pass.

The array lies image by image, so that images that do not count cost nothing; and at most half of
them count: where more pass, those that do not are taken from what is known of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1024
"""Images that are taken at once, so that what is made of them stays in the processor's cache."""

FIRST = 64
"""Images whose mean is what the others are added up about."""

LOST = 1e-3
"""Where no more than this is left of a sum of squares, rounding may have taken the rest."""


@dataclass(frozen=True)
class Moments:
    """Of each row, over some images: how many are defined, their mean (0 of none), and the sum of
    the squares of what is left without it. float64[row] each."""

    counts: np.ndarray
    means: np.ndarray
    squares: np.ndarray

    @staticmethod
    def of(values: np.ndarray, images: np.ndarray, holes: bool, about: np.ndarray | None = None
           ) -> Moments:
        """Of float32[image, row] on these images, int[n]. `holes`: some of it may be NaN.

        They are added up about the mean of the first ones, so that float32 suffices, and where that
        is far off, again about the mean that was found.
        """
        rows = values.shape[1]
        start = _mean(values[images[:FIRST]]) if about is None else about
        counts, sums, squares = np.zeros((3, rows))
        room = np.empty((min(BLOCK, len(images)), rows), np.float32)
        for first in range(0, len(images), BLOCK):
            some = images[first:first + BLOCK]
            own = np.take(values, some, 0, room[:len(some)], "clip")
            own -= start
            if holes:
                known = np.isfinite(own)
                counts += known.sum(0)
                own[~known] = 0
            # no product with ones: BLAS would start threads for it, which wait for a free core
            sums += np.add.reduce(own, 0)
            squares += np.add.reduce(np.multiply(own, own, out=own), 0)
        if not holes:
            counts += len(images)
        apart = _share(sums, counts)
        means = np.where(counts > 0, start + apart, 0)
        left = np.maximum(squares - sums * apart, 0)
        if about is None and (left < LOST * squares).any():
            return Moments.of(values, images, holes, means.astype(np.float32))
        return Moments(counts, means, left)

    def without(self, other: Moments) -> Moments:
        """Those of the images that are not among the others."""
        counts = self.counts - other.counts
        share, apart = _share(other.counts, counts), self.means - other.means
        return Moments(counts, np.where(counts > 0, self.means + share * apart, 0),
                       self.squares - other.squares - self.counts * share * apart * apart)


def _mean(values: np.ndarray) -> np.ndarray:
    """float32[row], of float32[image, row]; 0 where none is defined."""
    known = np.isfinite(values)
    return _share(values.sum(0, np.float64, where=known), known.sum(0)).astype(np.float32)


def _share(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The values by so many; 0 by none."""
    return np.divide(values, counts, out=np.zeros(len(counts)), where=counts > 0)


@dataclass(frozen=True)
class Dense:
    """One measure of one model: `values`, float32[image, row], NaN where undefined, and what is
    known of it over all images. `layer`, `head`: int[row]: whose row it is."""

    layer: np.ndarray
    head: np.ndarray
    values: np.ndarray
    every: Moments

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def over(self, passing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count, mean and sample variance of each row over the images that pass, float64[row] each;
        NaN where there is none."""
        found = self.moments(passing)
        several = np.maximum(found.counts - 1, 1)
        return (found.counts, np.where(found.counts > 0, found.means, np.nan),
                np.where(found.counts > 1, found.squares / several, np.nan))

    def moments(self, passing: np.ndarray) -> Moments:
        if not self.every.counts.any():
            return self.every
        holes = bool((self.every.counts < len(passing)).any())
        if 2 * np.count_nonzero(passing) <= len(passing):
            return Moments.of(self.values, np.flatnonzero(passing), holes)
        others = Moments.of(self.values, np.flatnonzero(~passing), holes)
        found = self.every.without(others)
        for row in np.flatnonzero(found.squares < LOST * self.every.squares):
            own = self.values[passing, row].astype(np.float64)
            own = own[np.isfinite(own)]
            found.means[row] = own.mean() if len(own) else 0
            found.squares[row] = np.square(own - found.means[row]).sum()
        return found
