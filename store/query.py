"""A question to a store, and what every question is about."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from store import series
from store.polygon import contains
from store.reader import Store
from store.selection import Predicate, Region, Scope, Selection

MODELS = "model IN (SELECT unnest($models::VARCHAR[]))"


@dataclass(frozen=True)
class Query:
    """SQL and its named parameters; `then`: what is made of its rows before anyone sees them.

    The SQL is what a question means. `quick` answers the same with what is in memory, where it can;
    None where it cannot. A test holds the one against the other.
    """

    sql: str
    params: Mapping[str, object] = field(default_factory=dict)
    then: Callable[[Store, pa.Table], pa.Table] | None = None
    quick: Callable[[Store], pa.Table | None] | None = None

    def rows(self, store: Store) -> pa.Table:
        key = ("asked", self.sql, pickle.dumps(dict(self.params)))
        found = store.memo.keep(key, lambda: self._ask(store))
        return found if self.then is None else self.then(store, found)

    def _ask(self, store: Store) -> pa.Table:
        found = self.quick(store) if self.quick else None
        return store.query(self.sql, dict(self.params)) if found is None else found


@dataclass(frozen=True)
class Ask:
    """What every question is about: a store, the models on show, and the active filters."""

    store: Store
    models: tuple[str, ...]
    selection: Selection

    def where(self, keys: Sequence[str], skip: Sequence[str] = ()) -> Predicate:
        scope = Scope(self.models, lambda region: inside(self.store, region))
        return self.selection.where(keys, scope, skip)

    @property
    def images(self) -> Predicate:
        """The condition on `image`."""
        return self.where(["image"])

    @property
    def models_only(self) -> Predicate:
        return Predicate(MODELS, {"models": list(self.models)})

    @property
    def count(self) -> int:
        """How many images the store has."""
        return series.images(self.store)

    @property
    def passing(self) -> np.ndarray:
        """bool[image]: which images pass."""
        kept = self.images
        if not kept.sql:
            return np.ones(self.count, bool)
        found = np.zeros(self.count, bool)
        rows = self.store.kept(f"SELECT image FROM images {kept.where}", dict(kept.params))
        numbers = rows["image"].to_numpy()
        found[numbers[numbers < len(found)]] = True
        return found


def inside(store: Store, region: Region) -> list[int]:
    """The images inside a polygon drawn in the overview of its model."""
    def found() -> np.ndarray:
        rows = store.kept("SELECT image, x, y FROM predictions WHERE model = $model AND "
                          "x IS NOT NULL ORDER BY image", {"model": region.model})
        x, y = (rows[c].to_numpy().astype(float) for c in ("x", "y"))
        return rows["image"].to_numpy()[contains(region.points, x, y)]
    return store.memo.keep(("inside", region), found).tolist()
