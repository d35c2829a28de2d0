"""What the page must know about a store before any view asks: its models, images and labels."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from store import queries
from store.reader import Store
from store.selection import HeadKey

REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Model:
    """One finished model. `row` is its row of the table `models`; `index` fixes its colour."""

    name: str
    index: int
    layers: int
    heads: int
    grid_h: int
    grid_w: int
    classifier: str
    row: dict

    @property
    def hops(self) -> int:
        return max(self.grid_h, self.grid_w)

    @property
    def has_classifier(self) -> bool:
        return self.classifier != "none"


@dataclass(frozen=True)
class Facts:
    """`labels` are (label, images), without the unlabelled."""

    models: tuple[Model, ...] = ()
    unfinished: tuple[str, ...] = ()
    images: int = 0
    labels: tuple[tuple[str, int], ...] = ()

    def model(self, name: str) -> Model:
        return next(m for m in self.models if m.name == name)

    def has_head(self, key: HeadKey) -> bool:
        model, layer, head = key
        found = next((m for m in self.models if m.name == model), None)
        return found is not None and 0 <= layer < found.layers and 0 <= head < found.heads

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.models)

    @staticmethod
    def read(store: Store) -> Facts:
        rows = queries.model_facts().rows(store).to_pylist()
        labels = queries.label_counts().rows(store).to_pylist()
        finished = [r for r in rows if r["summarised"]]
        return Facts(
            tuple(_model(i, r) for i, r in enumerate(finished)),
            tuple(r["model"] for r in rows if not r["summarised"]),
            sum(r["images"] for r in labels),
            tuple((r["label"], r["images"]) for r in labels if r["label"] is not None))


def _model(index: int, row: dict) -> Model:
    return Model(row["model"], index, row["layers"], row["heads"], row["grid_h"], row["grid_w"],
                 row["classifier"] or "none", row)


class Live:
    """A store opened at first use, in the process that uses it, and looked at again as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._facts = Facts()
        self._looked = 0.0

    def now(self) -> tuple[Store, Facts]:
        """The store and its facts, at most `REFRESH_SECONDS` old. Raises StoreError."""
        with self._lock:
            first = self._store is None
            store = self._store or Store(self.path)
            self._store = store
            if time.monotonic() - self._looked > REFRESH_SECONDS or first:
                if store.refresh() or first:
                    self._facts = Facts.read(store)
                self._looked = time.monotonic()
            return store, self._facts
