"""Which images pass a filter, in memory: what the SQL of each clause says, as bool[image]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    rows = store.kept("SELECT image, x, y FROM predictions WHERE model = $model AND "
                      "x IS NOT NULL ORDER BY image", {"model": region.model})
    x, y = (rows[c].to_numpy().astype(float) for c in ("x", "y"))
    return rows["image"].to_numpy()[contains(region.points, x, y)]


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
