"""The measures of a model as dense arrays, heads x images, so that a filter is a matrix product.

They come from the arrays that `store.series_tables` tells of. Where a store has none, or none of
its newest images, all functions here give None, and the question goes to the rows of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from store.arrays import Arrays, opened
from store.bins import Counts
from store.memo import Sized
from store.passing import images
from store.places import model_folder
from store.reader import Store
from store.selection import HeadKey
from store.series_tables import CELL_COLUMNS, FILE, PLACE_COLUMNS

Some = TypeVar("Some", bound=Sized)

FEW = 4
"""A filter that keeps or drops less than one image in so many looks at those alone."""

BLOCK = 16
"""Rows that are taken at once, so that what is made of them stays in the cache."""


class NoSeriesError(Exception):
    """The store has no series of a model: the question goes to the rows of all images."""


@dataclass(frozen=True)
class Rows:
    """A row a head: `layer`, `head`: int[row]. `values`: what is known of each."""

    layer: np.ndarray
    head: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def rows_of(self, heads: Sequence[HeadKey]) -> np.ndarray:
        """int[head]: the rows of these heads, in their order, whatever their model."""
        place = {key: i for i, key in enumerate(zip(self.layer.tolist(), self.head.tolist(),
                                                    strict=True))}
        return np.array([place[h[1:]] for h in heads if h[1:] in place], int)


@dataclass(frozen=True)
class Sums:
    """Of each row, over some images: how many are defined, and the sums of what is left without the
    row's centre and of its squares. float64[row] each."""

    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    def without(self, other: Sums) -> Sums:
        return Sums(self.counts - other.counts, self.sums - other.sums,
                    self.squares - other.squares)


@dataclass(frozen=True)
class Dense(Rows):
    """One measure of one model.

    `values`: float32[row, image], NaN where undefined. `centre`: float32[row], about its mean over
    all images. `totals`: over all images.
    """

    centre: np.ndarray
    totals: Sums

    @staticmethod
    def of(layer: np.ndarray, head: np.ndarray, values: np.ndarray) -> Dense:
        known = np.isfinite(values)
        sums = np.where(known, values, 0).sum(1, dtype=np.float64)
        centre = (sums / np.maximum(known.sum(1), 1)).astype(np.float32)
        totals = _sums(values, centre, np.ones(values.shape[1], np.float32), True)
        return Dense(layer, head, values, centre, totals)

    @property
    def images(self) -> int:
        return self.values.shape[1]

    @cached_property
    def holes(self) -> bool:
        """Whether anything is undefined."""
        return bool((self.totals.counts < self.images).any())

    def over(self, passing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count, mean and sample variance of each row over the images that pass, float64[row] each;
        NaN where there is none. Where few pass, or all but few, only those few are looked at."""
        kept = passing.sum()
        if FEW * kept < len(passing):
            found = self._among(passing)
        elif FEW * (len(passing) - kept) < len(passing):
            found = self.totals.without(self._among(~passing))
        else:
            found = _sums(self.values, self.centre, passing.astype(np.float32), self.holes)
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = found.sums / found.counts
            variance = np.maximum((found.squares - found.sums * apart) / (found.counts - 1), 0)
        return (found.counts, np.where(found.counts > 0, apart + self.centre, np.nan),
                np.where(found.counts > 1, variance, np.nan))

    def _among(self, images: np.ndarray) -> Sums:
        few = self.values.take(np.flatnonzero(images), 1)
        return _sums(few, self.centre, np.ones(few.shape[1], np.float32), self.holes)


def _sums(values: np.ndarray, centre: np.ndarray, weights: np.ndarray, holes: bool) -> Sums:
    """Over columns with these weights, 0 or 1; `holes`: some values may be undefined."""
    counts, sums, squares = (np.empty(len(values)) for _ in range(3))
    counts[:] = weights.sum()
    room = np.empty((BLOCK, len(weights)), np.float32)
    for start in range(0, len(values), BLOCK):
        some = slice(start, start + BLOCK)
        own = np.subtract(values[some], centre[some, None], out=room[:len(values) - start])
        if holes:
            known = np.isfinite(own)
            counts[some] = known.astype(np.float32) @ weights
            own[~known] = 0
        sums[some] = own @ weights
        squares[some] = np.multiply(own, own, out=own) @ weights
    return Sums(counts, sums, squares)


@dataclass(frozen=True)
class Profile:
    """Strength at each hop: float32[hop, image]; and whether an image has one, bool[image]."""

    values: np.ndarray
    known: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def quantiles(self, passing: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """float64[share, hop] over the images that pass, with linear interpolation."""
        passing = passing & self.known
        last = int(passing.sum()) - 1
        if last < 0:
            return np.full((len(shares), len(self.values)), np.nan)
        steps = [divmod(share * last, 1) for share in shares]
        ranked = self.values.compress(passing, 1)
        ranked.sort(1)  # numpy sorts whole rows faster than it finds two places in them
        low, high = (ranked[:, [min(int(step) + more, last) for step, _ in steps]].astype(float)
                     for more in (0, 1))
        return (low + np.array([part for _, part in steps]) * (high - low)).T

    def spread(self, passing: np.ndarray) -> np.ndarray:
        """float64[hop, 4]: mean, quartiles, and of how many of the images that pass."""
        kept = passing & self.known
        low, high = self.quantiles(passing, (0.25, 0.75))
        count = kept.sum()
        values = self.values if self.known.all() else np.where(self.known, self.values, 0)
        mean = values @ kept.astype(np.float32) / count if count else low
        return np.stack([mean, low, high, np.full(len(mean), count)], -1)


@dataclass(frozen=True)
class Cells(Rows):
    """The cells of a map that a model's heads are in: uint16[image, row]. `count`: how many are in
    each, int32[cell]."""

    count: np.ndarray


def dense(store: Store, model: str, name: str) -> Dense | None:
    """A measure of all heads of a model, by layer and head."""
    def read(arrays: Arrays) -> Dense:
        centre, *sums = arrays[f"{name}.totals"]
        return Dense(arrays["layer"], arrays["head"], arrays[name], centre.astype(np.float32),
                     Sums(*sums))
    return kept(store, model, ("dense", name), read)


def cells(store: Store, model: str, kind: str, space: str) -> Cells | None:
    """Where in a map a model's heads are, by layer and head."""
    name = CELL_COLUMNS[kind, space]
    return kept(store, model, ("cells", name), lambda arrays: Cells(
        arrays["layer"], arrays["head"], arrays[name], arrays[f"{name}.count"]))


def counts(store: Store, model: str, name: str) -> Counts | None:
    """How many heads of a model are in each bin of a measure, image by image."""
    def read(arrays: Arrays) -> Counts:
        low, high, k, first = arrays[f"{name}.span"]
        return Counts(low, high, int(k), int(first), arrays[f"{name}.bins"])
    return kept(store, model, ("counts", name), read)


def by_image(store: Store, model: str, name: str) -> np.ndarray | None:
    """float64[2, image]: a measure's sum over a model's heads, and how many are defined."""
    return kept(store, model, ("by_image", name), lambda arrays: arrays[f"{name}.by_image"])


def profile(store: Store, model: str, head: HeadKey | None) -> Profile | None:
    """Strength at each hop of a head, or the mean over a model's heads."""
    def read(arrays: Arrays) -> Profile:
        if head is None:
            values = arrays["hop_strength.mean"]
        else:
            row = _row(arrays, head)
            values = arrays.row("hop_strength", row)[:arrays["hops"][row]]
        return Profile(values, np.isfinite(values).all(0))
    return kept(store, model, ("profile", head), read)


def spread(store: Store, head: HeadKey) -> np.ndarray | None:
    """Of a head's strength at each hop over all images, as `Profile.spread`."""
    def read(arrays: Arrays) -> np.ndarray:
        row = _row(arrays, head)
        return arrays.row("hop_strength.spread", row)[:arrays["hops"][row]]
    return kept(store, head[0], ("spread", head), read)


def places(store: Store, model: str, kind: str, space: str, image: int) -> Rows | None:
    """Where in a map a model's heads are on an image: x, y and error, float32[row, 3]."""
    return kept(store, model, ("places", kind, space, image), lambda arrays: Rows(
        arrays["layer"], arrays["head"], arrays.row(PLACE_COLUMNS[kind, space], image)))


def measures(store: Store, head: HeadKey, names: Sequence[str]) -> np.ndarray | None:
    """float32[measure, image]: what is measured of one head."""
    return kept(store, head[0], ("measures", head, tuple(names)), lambda arrays: np.stack(
        [arrays.row(name, _row(arrays, head)) for name in names]))


def _row(arrays: Arrays, head: HeadKey) -> int:
    """Where a head is among the rows. Raises IndexError where it is not."""
    return int(np.flatnonzero((arrays["layer"] == head[1]) & (arrays["head"] == head[2]))[0])


def kept(store: Store, model: str, key: Hashable, read: Callable[[Arrays], Some]) -> Some | None:
    """What is read of a model's arrays, once; None where they are not of all images, or of no
    such thing."""
    def found() -> Some | None:
        with opened(model_folder(store.path, model) / FILE) as arrays:
            try:
                if arrays is None or arrays.shape("hop_strength.mean")[-1] != images(store):
                    return None
                return read(arrays)
            except (LookupError, ValueError, TypeError, OSError, MemoryError):
                return None
    return store.arrays.keep((model, key), found)
