"""The measures of a model as dense arrays, heads x images, so that a filter is a matrix product.

They come from `head_series` and `model_series`. Where a store has none, or none of its newest
images, every function here gives None, and the question goes to the rows of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa

from store.reader import Store
from store.schema import TABLES
from store.selection import HeadKey
from store.series_tables import CELL_COLUMNS, NOWHERE

Some = TypeVar("Some", "Dense", "Cells")

FEW = 4
"""A filter that keeps or drops less than one image in so many looks at those alone."""

BLOCK = 16
"""Rows that are taken at once, so that what is made of them stays in the cache."""


@dataclass(frozen=True)
class Rows:
    """A row a head, a column an image. `layer`, `head`: int[row]; `values`: [row, image]."""

    layer: np.ndarray
    head: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def images(self) -> int:
        return self.values.shape[1]

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
    """One measure of one model, a row a head.

    `values`: float32, NaN where undefined. `centre`: float32[row], the mean over all
    images. `holes`: whether anything is undefined.
    """

    centre: np.ndarray
    holes: bool

    @staticmethod
    def of(layer: np.ndarray, head: np.ndarray, values: np.ndarray) -> Dense:
        known = np.isfinite(values)
        sums = np.where(known, values, 0).sum(1, dtype=np.float64)
        centre = (sums / np.maximum(known.sum(1), 1)).astype(np.float32)
        return Dense(layer, head, values, centre, not known.all())

    @cached_property
    def totals(self) -> Sums:
        return self._sums(self.values, np.ones(self.images, np.float32))

    def over(self, passing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count, mean and sample variance of each row over the images that pass, float64[row] each;
        NaN where there is none. Where few pass, or all but few, only those few are looked at."""
        kept = passing.sum()
        if FEW * kept < len(passing):
            found = self._among(passing)
        elif FEW * (len(passing) - kept) < len(passing):
            found = self.totals.without(self._among(~passing))
        else:
            found = self._sums(self.values, passing.astype(np.float32))
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = found.sums / found.counts
            variance = np.maximum((found.squares - found.sums * apart) / (found.counts - 1), 0)
        return (found.counts, np.where(found.counts > 0, apart + self.centre, np.nan),
                np.where(found.counts > 1, variance, np.nan))

    def _among(self, images: np.ndarray) -> Sums:
        few = self.values[:, np.flatnonzero(images)]
        return self._sums(few, np.ones(few.shape[1], np.float32))

    def _sums(self, values: np.ndarray, weights: np.ndarray) -> Sums:
        """Over columns with these weights, 0 or 1."""
        counts, sums, squares = (np.empty(len(values)) for _ in range(3))
        for start in range(0, len(values), BLOCK):
            some = slice(start, start + BLOCK)
            own = values[some] - self.centre[some, None]
            counts[some] = weights.sum()
            if self.holes:
                known = np.isfinite(own)
                counts[some] = known.astype(np.float32) @ weights
                own[~known] = 0
            sums[some], squares[some] = own @ weights, np.square(own) @ weights
        return Sums(counts, sums, squares)


@dataclass(frozen=True)
class Profile:
    """Strength at each hop: float32[hop, image], and whether an image has one, bool[image]."""

    values: np.ndarray
    known: np.ndarray

    @property
    def nbytes(self) -> int:
        return 2 * self.values.nbytes

    @cached_property
    def order(self) -> np.ndarray:
        """int32[hop, image]: the images in order of each hop's strength."""
        return np.argsort(self.values, 1).astype(np.int32)

    def quantiles(self, passing: np.ndarray, shares: Sequence[float], again: bool) -> np.ndarray:
        """float64[share, hop] over the images that pass, with linear interpolation. `again`: will
        be asked of this profile again, so that it is worth putting in order."""
        passing = passing & self.known
        if not passing.any():
            return np.full((len(shares), len(self.values)), np.nan)
        if not again:
            return np.quantile(self.values[:, passing], shares, axis=1)
        ranked = self.order[passing[self.order]].reshape(len(self.values), -1)
        last = ranked.shape[1] - 1
        found = []
        for share in shares:
            place, part = divmod(share * last, 1)
            low, high = (np.take_along_axis(self.values, ranked[:, [min(int(place) + step, last)]],
                                            1)[:, 0].astype(np.float64) for step in (0, 1))
            found.append(low + part * (high - low))
        return np.array(found)


@dataclass(frozen=True)
class Cells(Rows):
    """The cells of a map that a model's heads are in: uint16[row, image]."""


def dense(store: Store, model: str, name: str) -> Dense | None:
    """A measure of all heads of a model, by layer and head."""
    return _current(store, store.memo.keep(
        ("dense", model, name), lambda: Dense.of(*_lists(store, model, name, np.nan))))


def cells(store: Store, model: str, kind: str, space: str) -> Cells | None:
    """Where in a map a model's heads are, by layer and head."""
    return _current(store, store.memo.keep(
        ("cells", model, kind, space),
        lambda: Cells(*_lists(store, model, CELL_COLUMNS[kind, space], NOWHERE))))


def profile(store: Store, model: str, head: HeadKey | None) -> Profile | None:
    """Strength at each hop of a head, or the mean over a model's heads."""
    found = store.memo.keep(("profile", model, head), lambda: _profile(store, model, head))
    return found if len(found.known) == images(store) else None


def _profile(store: Store, model: str, head: HeadKey | None) -> Profile:
    table, where = ("model_series", "") if head is None else (
        "head_series", "WHERE layer = $layer AND head = $head")
    params = {} if head is None else {"layer": head[1], "head": head[2]}
    rows = store.query("SELECT images, hops, hop_strength FROM "
                       f"{store.part(table, model)} {where}", params)
    shape = (rows["images"][0].as_py(), rows["hops"][0].as_py()) if rows.num_rows == 1 else (0, 0)
    values = np.ascontiguousarray(_flat(rows["hop_strength"]).reshape(shape).T)
    return Profile(values, np.isfinite(values).all(0))


def images(store: Store) -> int:
    """How many images the store has."""
    (row,) = store.kept("SELECT count(*) AS n FROM images").to_pylist()
    return row["n"]


def _current(store: Store, found: Some) -> Some | None:
    return found if len(found.layer) and found.images == images(store) else None


def _lists(store: Store, model: str, column: str, empty: float
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Layer and head of each row, and the rows' lists as one array; `empty` where there is none."""
    name = TABLES["head_series"].column(column).name
    rows = store.query(f'SELECT layer, head, images, "{name}" AS list FROM '
                       f'{store.part("head_series", model)}')
    layer, head = rows["layer"].to_numpy(), rows["head"].to_numpy()
    shape = len(layer), rows["images"][0].as_py() if rows.num_rows else 0
    flat = _flat(rows["list"])
    values = flat.reshape(shape) if flat.size else np.full(shape, empty)
    order = np.lexsort((head, layer))
    if (order == np.arange(len(order))).all():
        return layer, head, values
    return layer[order], head[order], values[order]


def _flat(lists: pa.ChunkedArray) -> np.ndarray:
    """What the lists hold, one after the other."""
    return np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False)
                           for chunk in lists.chunks] or [np.empty(0, np.float32)])
