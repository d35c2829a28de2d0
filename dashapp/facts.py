"""What the page must know about a store before any view asks: its models, images and labels."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import cached_property

from store import pattern_queries, queries
from store.reader import Store
from store.remote import Place
from store.selection import HeadKey

REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Block:
    """The tokens of one block: `prefix` first, then a grid of patches by rows.

    `class_query`: the class token alone asks. `windowed`: patches see those of their window only.
    """

    heads: int
    grid_h: int
    grid_w: int
    prefix: int = 0
    class_token: bool = False
    class_query: bool = False
    windowed: bool = False

    @property
    def tokens(self) -> int:
        return self.prefix + self.grid_h * self.grid_w

    def token(self, number: int) -> str:
        """A token in words."""
        if number >= self.prefix:
            row, column = divmod(number - self.prefix, self.grid_w)
            return f"patch {row}, {column}"
        if self.class_token and not number:
            return "class token"
        return f"prefix token {number + (not self.class_token)}"


@dataclass(frozen=True)
class Model:
    """One finished model. `row` is its row of the table `models`; `index` fixes its colour.

    `kept`: the images of which its attention is kept; `kinds`: the kinds of pattern that its heads
    have; `placed`: those of them that have places in the pattern spaces.
    """

    name: str
    index: int
    layers: int
    heads: int
    grid_h: int
    grid_w: int
    classifier: str
    row: dict
    blocks: tuple[Block, ...] = ()
    kept: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    placed: tuple[str, ...] = ()

    @property
    def hops(self) -> int:
        return max(self.grid_h, self.grid_w)

    @property
    def has_classifier(self) -> bool:
        return self.classifier != "none"


@dataclass(frozen=True, eq=False)
class Facts:
    """`labels` are (label, images), without the unlabelled. Read anew, they are others."""

    models: tuple[Model, ...] = ()
    unfinished: tuple[str, ...] = ()
    images: int = 0
    labels: tuple[tuple[str, int], ...] = ()

    def model(self, name: str) -> Model:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    def has_head(self, key: HeadKey) -> bool:
        model, layer, head = key
        found = self._by_name.get(model)
        return found is not None and 0 <= layer < len(found.blocks) \
            and 0 <= head < found.blocks[layer].heads

    def block(self, key: HeadKey) -> Block:
        """The block of a head that is there."""
        return self.model(key[0]).blocks[key[1]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.models)

    @staticmethod
    def read(store: Store) -> Facts:
        rows = queries.model_facts().rows(store).to_pylist()
        labels = queries.label_counts().rows(store).to_pylist()
        finished = [r for r in rows if r["summarised"]]
        beside = [_by_model(query.rows(store).to_pylist()) for query in (
            pattern_queries.blocks(), pattern_queries.kept_images(), pattern_queries.kinds(),
            pattern_queries.placed())]
        return Facts(
            tuple(_model(i, r, *(found.get(r["model"], []) for found in beside))
                  for i, r in enumerate(finished)),
            tuple(r["model"] for r in rows if not r["summarised"]),
            sum(r["images"] for r in labels),
            tuple((r["label"], r["images"]) for r in labels if r["label"] is not None))


def _model(index: int, row: dict, blocks: list[dict], kept: list[dict], kinds: list[dict],
           placed: list[dict]) -> Model:
    return Model(
        row["model"], index, row["layers"], row["heads"], row["grid_h"], row["grid_w"],
        row["classifier"] or "none", row,
        tuple(Block(r["heads"], r["grid_h"], r["grid_w"], r["prefix_tokens"], r["class_token"],
                    bool(r["class_query"]), r["windowed"]) for r in blocks),
        tuple(r["image"] for r in kept), tuple(r["kind"] for r in kinds),
        tuple(r["kind"] for r in placed))


def _by_model(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    return found


class Live:
    """A store opened at first use, in the process that uses it, and looked at again as it grows."""

    def __init__(self, path: Place) -> None:
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
