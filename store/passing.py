"""Which images pass a filter, in memory: what the SQL of each clause says, as bool[image]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.polygon import contains
from store.reader import Store
from store.selection import MODELS, Clause, Labels, Outcome, Region


def images(store: Store) -> int:
    """How many images the store has."""
    (row,) = store.kept("SELECT count(*) AS n FROM images").to_pylist()
    return row["n"]


def passing(store: Store, models: Sequence[str], clauses: Sequence[Clause]) -> np.ndarray:
    """bool[image], not to be written to. `clauses`: filters of images."""
    every = np.ones(images(store), bool)
    return store.memo.keep(
        ("passing", tuple(models), tuple(clauses)), lambda: np.logical_and.reduce(
            [every, *(_BY_KIND[type(one)](store, models, one) for one in clauses)]))


def inside(store: Store, region: Region) -> list[int]:
    """The images inside a polygon drawn in the overview of its model, in order."""
    return _Inside.of(store, region).numbers


class _Inside:
    """The images inside a polygon, as bool[image] and by number."""

    def __init__(self, numbers: np.ndarray, count: int) -> None:
        self.numbers, self.flags = numbers.tolist(), _flags(numbers, count)

    @property
    def nbytes(self) -> int:
        return self.flags.nbytes + 8 * len(self.numbers)

    @staticmethod
    def of(store: Store, region: Region) -> _Inside:
        return store.memo.keep(("inside", region), lambda: _Inside(
            _within(store, region), images(store)))


def _within(store: Store, region: Region) -> np.ndarray:
    layout = store.memo.keep(("layouts",), lambda: _Layouts.of(store))
    image, x, y = layout.places.get(region.model, _NOWHERE)
    return image[contains(region.points, x, y)]


@dataclass(frozen=True)
class _Layouts:
    """By model: the numbers of its images, in order, and their x and y in the overview."""

    places: Mapping[str, tuple[np.ndarray, ...]]
    nbytes: int

    @staticmethod
    def of(store: Store) -> _Layouts:
        rows = store.query("SELECT model, image, x, y FROM predictions WHERE x IS NOT NULL "
                           "ORDER BY model, image")
        models = rows["model"].combine_chunks().dictionary_encode()
        columns = [rows["image"].to_numpy(), *(rows[c].to_numpy().astype(float) for c in "xy")]
        ends = np.searchsorted(models.indices.to_numpy(), np.arange(1, len(models.dictionary)))
        each = zip(*(np.split(column, ends) for column in columns), strict=True)
        return _Layouts(dict(zip(models.dictionary.to_pylist(), each, strict=False)),
                        sum(column.nbytes for column in columns))


_NOWHERE = (np.empty(0, np.int32), np.empty(0), np.empty(0))


def _labelled(store: Store, _: Sequence[str], clause: Labels) -> np.ndarray:
    rows = store.kept("SELECT image, label FROM images WHERE label IS NOT NULL")
    kept = pc.is_in(rows["label"], pa.array(clause.labels, pa.string()))
    return _flags(rows["image"].to_numpy()[kept.to_numpy()], images(store))


_JUDGED = f"""
SELECT image, coalesce(bool_or(correct), false) AS any_correct,
       coalesce(bool_or(NOT correct), false) AS any_wrong, count(DISTINCT predicted) AS votes
FROM predictions WHERE {MODELS} GROUP BY image""".strip()


def _judged(store: Store, models: Sequence[str], clause: Outcome) -> np.ndarray:
    rows = store.kept(_JUDGED, {"models": list(models)})
    correct, wrong = (rows[name].to_numpy() for name in ("any_correct", "any_wrong"))
    kept = {"all_correct": correct & ~wrong, "any_wrong": wrong, "all_wrong": wrong & ~correct,
            "disagree": rows["votes"].to_numpy() > 1}[clause.outcome]
    return _flags(rows["image"].to_numpy()[kept], images(store))


def _flags(numbers: np.ndarray, count: int) -> np.ndarray:
    """bool[count]: which of the images are among these."""
    found = np.zeros(count, bool)
    found[numbers[numbers < count]] = True
    return found


_BY_KIND: Mapping[type, Callable[[Store, Sequence[str], Any], np.ndarray]] = {
    Labels: _labelled, Outcome: _judged,
    Region: lambda store, _, clause: _Inside.of(store, clause).flags}
