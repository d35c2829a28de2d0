"""A question to a store, and what every question is about."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from store import passing
from store.passing import inside
from store.reader import Store
from store.selection import MODELS, Predicate, Scope, Selection
from store.series import NoSeriesError


@dataclass(frozen=True)
class Query:
    """SQL and its named parameters; `then`: what is made of its rows before anyone sees them.

    The SQL is what a question means. `quick` answers the same with what is in memory, where it can;
    None where it cannot. A test holds the one against the other. `brief`: the answer is not kept,
    since it is large and quickly made of what is.
    """

    sql: str
    params: Mapping[str, object] = field(default_factory=dict)
    then: Callable[[Store, pa.Table], pa.Table] | None = None
    quick: Callable[[Store], pa.Table | None] | None = None
    brief: bool = False

    def rows(self, store: Store) -> pa.Table:
        found = self._ask(store) if self.brief else store.memo.keep(
            ("asked", self.sql, pickle.dumps(dict(self.params))), lambda: self._ask(store))
        return found if self.then is None else self.then(store, found)

    def _ask(self, store: Store) -> pa.Table:
        found = self.quick(store) if self.quick else None
        return store.query(self.sql, dict(self.params)) if found is None else found


def quickly(answer: Callable[..., pa.Table], *about: object
            ) -> Callable[[Store], pa.Table | None]:
    """The answer from dense arrays; None where the store has none."""
    def tried(_: Store) -> pa.Table | None:
        try:
            return answer(*about)
        except NoSeriesError:
            return None
    return tried


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
        return passing.images(self.store)

    @property
    def passing(self) -> np.ndarray:
        """bool[image]: which images pass; not to be written to."""
        return passing.passing(self.store, self.models, self.selection.images.clauses)
