"""How alike attention heads are, by their mean patterns, and the heads most like one.

What a head's pattern is compared with first is the uniform head's, which sees everything alike: the
difference of the square roots of their shares is the head's deviation. The similarity of two heads
is 2 <a, b> / (|a|^2 + |b|^2) of their deviations, the identity coefficient (Zegers & ten Berge
1985): 1 for equal patterns, 0 for unrelated ones, and low where one is much weaker than the other,
so that it takes direction, magnitude and row entropy at once. It is over the kinds of pattern that
both heads have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from store.canon import KINDS, PATCH, STEPS, Kind
from store.errors import StoreError
from store.reader import Store
from store.schema import TABLES
from store.selection import HeadKey

ROUNDING = PATCH.size / (12 * STEPS ** 2)
"""Squared deviation that rounding to bytes alone may cause: less of it is no pattern."""


@dataclass(frozen=True)
class Heads:
    """Heads with a patch pattern: where they are, their names, and deviations (head x size) by kind
    of pattern; rows of NaN where a head has none of that kind."""

    layer: np.ndarray
    head: np.ndarray
    pattern: Sequence[str | None]
    deviations: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def nbytes(self) -> int:
        return sum(found.nbytes for found in self.deviations.values())

    @cached_property
    def squares(self) -> dict[str, np.ndarray]:
        """|a|^2 of every head by kind of pattern; NaN where it has none."""
        return {kind: np.square(found).sum(-1) for kind, found in self.deviations.items()}

    def at(self, layer: int, head: int) -> list[int]:
        """The row of a head; none where it is not among them."""
        return np.flatnonzero((self.layer == layer) & (self.head == head)).tolist()

    def take(self, rows: Sequence[int]) -> Heads:
        return Heads(self.layer[rows], self.head[rows], [self.pattern[i] for i in rows],
                     {kind: found[rows] for kind, found in self.deviations.items()})


def deviation(kind: Kind, patterns: np.ndarray) -> np.ndarray:
    """sqrt(share) minus sqrt(share of a uniform head), of patterns (... x size): the uniform head
    has all cells alike and nothing but the first of the shares beside them."""
    uniform = np.zeros(kind.size)
    uniform[:kind.cells] = 1 / kind.cells
    uniform[kind.cells] = 1
    return np.sqrt(patterns) - np.sqrt(uniform)


def heads_of(store: Store) -> dict[str, Heads]:
    """The heads of every model that have a patch pattern, in order of layer and head. Models whose
    patterns are not made yet are missing."""
    return store.memo.keep("heads with patterns", lambda: _read(store)).by_model


@dataclass(frozen=True)
class _All:
    by_model: dict[str, Heads]

    @property
    def nbytes(self) -> int:
        return sum(heads.nbytes for heads in self.by_model.values())


def _read(store: Store) -> _All:
    """All models at once: the files hold many columns, and to look into each takes longest."""
    columns = ", ".join(f"{kind}_pattern" for kind in KINDS)
    rows = store.query(f"SELECT model, layer, head, pattern, {columns} FROM heads "
                       "WHERE patch_pattern IS NOT NULL ORDER BY model, layer, head")
    names, starts = np.unique(np.array(rows["model"].to_pylist(), str), return_index=True)
    ends = np.append(starts, rows.num_rows)[1:]
    return _All({str(name): _heads(rows.slice(start, end - start))
                 for name, start, end in zip(names, starts, ends, strict=True)})


def _heads(rows: pa.Table) -> Heads:
    return Heads(rows["layer"].to_numpy(), rows["head"].to_numpy(), rows["pattern"].to_pylist(),
                 {name: deviation(kind, _matrix(rows[f"{name}_pattern"], kind.size))
                  for name, kind in KINDS.items()})


def _matrix(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """A column of lists of one length as float64 (row x size), NaN where it is NULL."""
    lists = column.combine_chunks()
    found = np.full((len(lists), size), np.nan)
    found[lists.is_valid().to_numpy(zero_copy_only=False)] = \
        lists.flatten().to_numpy().reshape(-1, size)
    return found


def similarity(a: Heads, b: Heads) -> np.ndarray:
    """How alike every head of `a` is to every head of `b` (a's head x b's head), -1..1."""
    products, squares = sums(a, b)
    return (2 * products + ROUNDING) / (squares + ROUNDING)


def sums(a: Heads, b: Heads) -> tuple[np.ndarray, np.ndarray]:
    """<a, b> and |a|^2 + |b|^2 (a's head x b's head each), over the kinds that both heads have."""
    products, squares = np.zeros((2, len(a), len(b)))
    for kind in KINDS:
        own = a.squares[kind][:, None] + b.squares[kind]
        both = ~np.isnan(own)
        products += np.where(both, a.deviations[kind] @ b.deviations[kind].T, 0)
        squares += np.where(both, own, 0)
    return products, squares


def alike(store: Store, model: str, layer: int, head: int, count: int = 10, across: bool = True,
          models: Sequence[str] | None = None) -> pa.Table:
    """The `count` heads most like this one, the most alike first: model, layer, head, similarity,
    p_value, matched, pattern.

    Of other models if `across`, of its own too if not, or of the `models` named. `p_value` and
    `matched` are those of `head_matches`: NULL but for the head that the assignment gives it.
    Raises StoreError where the head or a model is not there, or has no pattern.
    """
    heads = heads_of(store)
    own = _one(store, heads, model, layer, head)
    if models is None:
        models = [name for name in heads if name != model or not across]
    for name in models:
        _check_model(store, heads, name)
    matches = _matches(store, model, layer, head)
    near = [row for name in dict.fromkeys(models)
            for row in _near(own, (model, layer, head), name, heads[name], matches)]
    return _shown(sorted(near, key=lambda row: -row[3])[:count])


def alike_of_each(store: Store, head: HeadKey, models: Sequence[str], each: int) -> pa.Table:
    """As `alike`, of each of the models its `each` heads that are most like this one, and the one
    that the assignment gives it. Models without patterns are left out; no row for such a head."""
    heads = heads_of(store)
    if head[0] not in heads or not heads[head[0]].at(*head[1:]):
        return _shown([])
    own, matches = _one(store, heads, *head), _matches(store, *head)
    return _shown([row for name in models if name in heads
                   for row in _near(own, head, name, heads[name], matches, each)])


def _near(own: Heads, key: HeadKey, name: str, heads: Heads, matches: Mapping[HeadKey, tuple],
          most: int | None = None) -> list[tuple]:
    """The heads of a model as rows of what is shown, the most like `own` first and itself left out:
    the first `most`, and the one that the assignment gives it."""
    values = similarity(own, heads)[0]
    itself = heads.at(*key[1:]) if name == key[0] else []
    order = [i for i in np.argsort(-values, kind="stable").tolist() if i not in itself]
    first = order[:most]
    given = [i for model, y, h in matches if model == name for i in heads.at(y, h)]
    rows = []
    for i in first + [i for i in given if i not in first]:
        y, h = int(heads.layer[i]), int(heads.head[i])
        rows.append((name, y, h, float(values[i]), *matches.get((name, y, h), (None, None)),
                     heads.pattern[i]))
    return rows


def _shown(rows: Sequence[tuple]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(_SHOWN)
    return pa.table([pa.array(values, kind) for values, kind in
                     zip(columns, _SHOWN.types, strict=True)], schema=_SHOWN)


_TYPES = {c.name: c.type for table in ("head_matches", "heads") for c in TABLES[table].columns}
_SHOWN = pa.schema([(name, _TYPES[name]) for name in (
    "model", "layer", "head", "similarity", "p_value", "matched", "pattern")])


def _matches(store: Store, model: str, layer: int, head: int) -> dict[HeadKey, tuple]:
    """What the assignments say of a head, p_value and matched, by the other head."""
    rows = store.kept("SELECT layer, head, other_model, other_layer, other_head, p_value, matched "
                      f"FROM {store.part('head_matches', model)}")
    own = (rows["layer"].to_numpy() == layer) & (rows["head"].to_numpy() == head)
    return {(r["other_model"], r["other_layer"], r["other_head"]): (r["p_value"], r["matched"])
            for r in rows.take(pa.array(np.flatnonzero(own))).to_pylist()}


def _one(store: Store, heads: Mapping[str, Heads], model: str, layer: int, head: int) -> Heads:
    """A head by itself."""
    _check_model(store, heads, model)
    if row := heads[model].at(layer, head):
        return heads[model].take(row)
    there = store.query("SELECT layer, head FROM heads WHERE model = ?", [model]).to_pylist()
    if {"layer": layer, "head": head} in there:
        raise StoreError(f"head {head} of layer {layer} of {model!r} has no patch pattern: "
                         "no patch asks there")
    numbers = [r["head"] for r in there if r["layer"] == layer]
    if numbers:
        raise StoreError(f"{model!r} has no head {head} in layer {layer}; "
                         f"its heads are 0 to {max(numbers)}")
    raise StoreError(f"{model!r} has no layer {layer}; its layers are 0 to "
                     f"{max(r['layer'] for r in there)}")


def _check_model(store: Store, heads: Mapping[str, Heads], model: str) -> None:
    if model in heads:
        return
    known = store.query("SELECT model FROM models ORDER BY model")["model"].to_pylist()
    if model in known:
        raise StoreError(f"the store at {store.path} has no patterns of {model!r}: run precompute "
                         "again with the same --store to make them")
    raise StoreError(f"no model {model!r} in the store at {store.path}; "
                     f"it has {', '.join(map(repr, known)) or 'none'}")
