"""What a filter of images is answered from: arrays of heads and images in place of rows.

They come from the arrays that `store.series_tables` tells of. Where a store has none, or none of
its newest images, all functions here give None, and the question goes to the rows of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from store.arrays import Arrays, opened
from store.bins import Counts
from store.memo import Sized
from store.moments import Dense, Moments
from store.passing import images
from store.places import model_folder
from store.reader import Store
from store.selection import HeadKey
from store.series_tables import CELL_COLUMNS, FILE, PLACE_COLUMNS

Some = TypeVar("Some")
Held = TypeVar("Held", bound=Sized)


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
class Profile:
    """Strength at each hop: float32[hop, image]; and whether an image has one, bool[image].

    `order`: the images from the least value to the largest, uint16[hop, image], those without one
    last; empty where nobody has put them in order.
    """

    values: np.ndarray
    known: np.ndarray
    order: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.order.nbytes

    def quantiles(self, passing: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """float64[share, hop] over the images that pass, with linear interpolation."""
        passing = passing & self.known
        last = int(passing.sum()) - 1
        if last < 0:
            return np.full((len(shares), len(self.values)), np.nan)
        steps = [divmod(share * last, 1) for share in shares]
        wanted = [[min(int(step) + more, last) for step, _ in steps] for more in (0, 1)]
        low, high = self._ranked(passing, np.array(wanted)).astype(float)
        return (low + np.array([part for _, part in steps])[:, None] * (high - low))

    def _ranked(self, passing: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """float32[..., hop]: the values of these ranks, int[...], among those that pass."""
        if not len(self.order):
            ranked = self.values.compress(passing, 1)
            ranked.sort(1)  # numpy sorts whole rows faster than it finds two places in them
            return np.moveaxis(ranked[:, ranks], 0, -1)
        places = np.stack([order.take(np.flatnonzero(passing.take(order)).take(ranks))
                           for order in self.order], -1)
        return self.values[np.arange(len(self.values)), places]

    def spread(self, passing: np.ndarray) -> np.ndarray:
        """float64[hop, 4]: mean, quartiles, and of how many of the images that pass."""
        kept = passing & self.known
        low, high = self.quantiles(passing, (0.25, 0.75))
        count = np.count_nonzero(kept)
        values = self.values if self.known.all() else np.where(self.known, self.values, 0)
        mean = np.vecdot(values, kept.astype(np.float32)) / count if count else low
        return np.stack([mean, low, high, np.full(len(low), count)], -1)


@dataclass(frozen=True)
class Cells(Rows):
    """The cells of a map that a model's heads are in: uint16[image, row]. `count`: how many are in
    each, int32[cell]."""

    count: np.ndarray


def dense(store: Store, model: str, name: str) -> Dense | None:
    """A measure of all heads of a model."""
    return kept(store, model, ("dense", name), lambda arrays: Dense(
        arrays["layer"], arrays["head"], arrays[f"{name}.images"],
        Moments(*arrays[f"{name}.totals"])))


def holds(store: Store, model: str, name: str) -> bool:
    """Whether `dense` has been read and is still there."""
    return store.arrays.holds((model, ("dense", name)))


def values(store: Store, model: str, name: str, heads: Sequence[HeadKey]) -> np.ndarray | None:
    """float32[head, image]: a measure of these heads of a model, NaN where undefined."""
    return read(store, model, lambda arrays: arrays.rows(
        name, [_row(arrays, head) for head in heads]))


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
            values, order = arrays["hop_strength.mean"], arrays["hop_strength.order"]
        else:
            row = _row(arrays, head)
            values = arrays.row("hop_strength", row)[:arrays["hops"][row]]
            order = np.empty(0, np.uint16)
        return Profile(values, np.isfinite(values).all(0), order)
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


def kept(store: Store, model: str, key: Hashable, make: Callable[[Arrays], Held]) -> Held | None:
    """The same as `read`, made once."""
    return store.arrays.keep((model, key), lambda: read(store, model, make))


def read(store: Store, model: str, make: Callable[[Arrays], Some]) -> Some | None:
    """What is made of a model's arrays; None where they are not of all images, or of no such
    thing."""
    with opened(model_folder(store.path, model) / FILE) as arrays:
        try:
            if arrays is None or arrays.shape("hop_strength.mean")[-1] != images(store):
                return None
            return make(arrays)
        except (LookupError, ValueError, TypeError, OSError, MemoryError):
            return None
