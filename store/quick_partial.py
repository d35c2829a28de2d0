"""Questions of `store.partial_queries` answered from the arrays of `store.series_tables`."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
import pyarrow as pa

from store import series
from store.arrays import Arrays
from store.lists import Lists
from store.memo import Sized
from store.query import Ask
from store.schema import TABLES
from store.selection import HeadKey

Found = TypeVar("Found", bound=Sized)

TABLE = TABLES["partial_pruning"]
_KEY = {"model": pa.string(), "layer": pa.int16(), "head": pa.int16(), "mode": pa.string()}
_NUMBERS = pa.schema({**_KEY, "value": pa.float64(), "low": pa.float64(), "high": pa.float64(),
                      "images": pa.int64(), "everything": pa.int64()})
_CLASSES = pa.schema({**_KEY, "class": pa.int32(), "name": pa.string(), "probability": pa.float64(),
                      "listed": pa.int64(), "images": pa.int64()})


Key = tuple[int, int]
"""The layer and the number of a head."""


@dataclass(frozen=True)
class Grid:
    """Where a head, a mode and an image are in arrays of one model."""

    heads: Sequence[Key]
    modes: Sequence[str]
    images: np.ndarray

    def kept(self, passing: np.ndarray, focus: int | None) -> np.ndarray:
        """bool[image]: which pass, or are in focus."""
        return passing[self.images] if focus is None else self.images == focus


@dataclass(frozen=True)
class Parts:
    """One quantity of some heads' partial pruning. `values`: float32[head, mode, image], NaN where
    undefined; `there`: whether there is a row of it, bool[head, mode, image]."""

    grid: Grid
    values: np.ndarray
    there: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.there.nbytes


@dataclass(frozen=True)
class Listed:
    """The most probable classes of some heads: `lists` of [head, mode, image]."""

    grid: Grid
    lists: Lists

    @property
    def nbytes(self) -> int:
        return self.lists.nbytes


def parts(ask: Ask, model: str, heads: Sequence[Key], quantity: str) -> Parts | None:
    """None where a model has no partial pruning. Raises NoSeriesError."""
    def read(arrays: Arrays, grid: Grid, rows: Sequence[int]) -> Parts:
        values, there = (_stacked(arrays, f"partial.{name}", [(row,) for row in rows])
                         for name in (TABLE.column(quantity).name, "there"))
        return Parts(grid, values, there)
    return _read(ask, model, heads, (quantity,), None, read)


def listed(ask: Ask, model: str, heads: Sequence[Key], modes: tuple[str, ...]) -> Listed | None:
    """None where a model has no partial pruning. Raises NoSeriesError."""
    def read(arrays: Arrays, grid: Grid, rows: Sequence[int]) -> Listed:
        known = _words(arrays)["modes"]
        places = [(row, known.index(mode)) for row in rows for mode in grid.modes]
        found = [_stacked(arrays, f"partial.{name}", places)
                 for name in ("classes", "chances", "listed")]
        shape = len(rows), len(grid.modes)
        classes, chances, there = (one.reshape(*shape, *one.shape[1:]) for one in found)
        names = {int(number): name for number, name in _words(arrays)["classes"].items()}
        return Listed(grid, Lists(classes, chances, there, names))
    return _read(ask, model, heads, modes, modes, read)


def _read(ask: Ask, model: str, heads: Sequence[Key], what: Hashable, modes: Sequence[str] | None,
          read: Callable[[Arrays, Grid, Sequence[int]], Found]) -> Found | None:
    """What is read of these heads of a model (those that it has) and modes (all without any)."""
    def found(arrays: Arrays) -> Found | _Nothing:
        if "partial.image" not in arrays:
            return NOTHING
        rows = {key: row for row, key in enumerate(zip(
            arrays["layer"].tolist(), arrays["head"].tolist(), strict=True))}
        known = [key for key in heads if key in rows]
        own = [mode for mode in _words(arrays)["modes"] if modes is None or mode in modes]
        if not known or not own:
            return NOTHING
        return read(arrays, Grid(known, own, arrays["partial.image"]), [rows[k] for k in known])
    made = series.kept(ask.store, model, ("partial", tuple(heads), what), found)
    if made is None:
        raise series.NoSeriesError
    return None if isinstance(made, _Nothing) else made


class _Nothing:
    """In place of what a model does not have."""

    nbytes = 0


NOTHING = _Nothing()


def _words(arrays: Arrays) -> dict:
    return json.loads(arrays["partial.words"].tobytes())


def _stacked(arrays: Arrays, name: str, places: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.stack([arrays.row(name, *place) for place in places])


def by_mode(ask: Ask, quantity: str, heads: Sequence[HeadKey], focus: int | None) -> pa.Table:
    """As `partial_queries.by_mode`. Raises NoSeriesError."""
    tables, passing = [_NUMBERS.empty_table()], ask.passing
    for model, keys in _by_model(ask, heads):
        own = parts(ask, model, keys, quantity)
        if own is None:
            continue
        kept = own.there & own.grid.kept(passing, focus)
        everything = (own.there if focus is None else kept).sum(-1)
        head, mode = np.nonzero(everything)
        spread = [numbers[head, mode] for numbers in _spread(own.values, kept)]
        tables.append(_table(_NUMBERS, [
            np.full(len(head), model, object), *np.array(own.grid.heads, np.int16)[head].T,
            np.array(own.grid.modes, object)[mode], *spread, kept.sum(-1)[head, mode],
            everything[head, mode]]))
    return pa.concat_tables(tables)


def _by_model(ask: Ask, heads: Iterable[HeadKey]) -> list[tuple[str, list[tuple[int, int]]]]:
    """The heads of models on show, in order: each model, and the layers and numbers of its own."""
    own = sorted(head for head in set(heads) if head[0] in ask.models)
    return [(model, [key[1:] for key in keys]) for model, keys in groupby(own, lambda key: key[0])]


def _spread(values: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the images that are kept, and mean -+ 1.96 standard errors; NaN where there is
    none."""
    known = kept & np.isfinite(values)
    count = known.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = values.sum(-1, np.float64, where=known) / count
        squares = np.square(values - mean[..., None]).sum(-1, where=known)
        reach = 1.96 * np.sqrt(squares / (count - 1) / count)
    return mean, mean - reach, mean + reach


def predictions(ask: Ask, mode: str, heads: Sequence[HeadKey], focus: int | None, top: int
                ) -> pa.Table:
    """As `partial_queries.predictions`. Raises NoSeriesError."""
    found, passing = [], ask.passing
    for model, keys in _by_model(ask, heads):
        own = listed(ask, model, keys, tuple(sorted({"none", mode})))
        if own is None:
            continue
        kept = own.grid.kept(passing, focus)
        found += [(model, *key, one, *said) for i, key in enumerate(own.grid.heads)
                  for j, one in enumerate(own.grid.modes)
                  for said in _first(own.lists, (i, j), kept, top)]
    return _table(_CLASSES, list(zip(*found, strict=True)) or [()] * len(_CLASSES))


def _first(own: Lists, at: tuple[int, int], kept: np.ndarray, top: int) -> list[tuple]:
    """The classes with the largest mean probability: class, name, mean, how many list it, and of
    how many."""
    images = kept & own.there[at]
    classes, chances = own.classes[at][images].ravel(), own.chances[at][images].ravel()
    distinct, place = np.unique(classes, return_inverse=True)
    means = np.bincount(place, chances, len(distinct)) / max(1, images.sum())
    count = np.bincount(place, minlength=len(distinct))
    order = [i for i in np.lexsort((distinct, -means)) if distinct[i] >= 0][:top]
    return [(int(distinct[i]), own.names[int(distinct[i])], means[i], count[i], images.sum())
            for i in order]


def _table(schema: pa.Schema, columns: Sequence) -> pa.Table:
    return pa.table([pa.array(values, field.type, from_pandas=True)
                     for field, values in zip(schema, columns, strict=True)], schema=schema)
