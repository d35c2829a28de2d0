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
from functools import partial

import numpy as np
import pyarrow as pa

from store.canon import KINDS, PATCH, STEPS, Kind
from store.errors import StoreError
from store.reader import Store
from store.schema import TABLES

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
    models = store.kept("SELECT DISTINCT model FROM heads WHERE patch_pattern IS NOT NULL "
                        "ORDER BY model")["model"].to_pylist()
    return {model: store.memo.keep(("heads", model), partial(_heads_of, store, model))
            for model in models}


def _heads_of(store: Store, model: str) -> Heads:
    columns = ", ".join(f"{kind}_pattern" for kind in KINDS)
    return _heads(store.query(
        f"SELECT layer, head, pattern, {columns} FROM heads WHERE patch_pattern IS NOT NULL "
        "AND model = $model ORDER BY layer, head", {"model": model}))


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
        x, y = a.deviations[kind], b.deviations[kind]
        both = ~np.isnan(x[:, 0])[:, None] & ~np.isnan(y[:, 0])
        x, y = np.nan_to_num(x), np.nan_to_num(y)
        products += x @ y.T
        squares += both * (np.square(x).sum(-1)[:, None] + np.square(y).sum(-1))
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
    near = [{"model": name, "layer": y, "head": h, "pattern": pattern, "similarity": value}
            for name in dict.fromkeys(models)
            for y, h, pattern, value in zip(
                heads[name].layer.tolist(), heads[name].head.tolist(), heads[name].pattern,
                similarity(own, heads[name])[0].tolist(), strict=True)
            if (name, y, h) != (model, layer, head)]
    near.sort(key=lambda row: -row["similarity"])
    said = _matches(store, model, layer, head)
    return pa.Table.from_pylist([
        row | said.get((row["model"], row["layer"], row["head"]), {}) for row in near[:count]],
        schema=_SHOWN)


_TYPES = {c.name: c.type for table in ("head_matches", "heads") for c in TABLES[table].columns}
_SHOWN = pa.schema([(name, _TYPES[name]) for name in (
    "model", "layer", "head", "similarity", "p_value", "matched", "pattern")])


def _matches(store: Store, model: str, layer: int, head: int) -> dict[tuple, dict[str, object]]:
    """What the assignments say of a head, by the other head."""
    rows = store.kept("SELECT other_model, other_layer, other_head, p_value, matched "
                       "FROM head_matches WHERE model = $model AND layer = $layer AND head = $head",
                      {"model": model, "layer": layer, "head": head}).to_pylist()
    return {(r["other_model"], r["other_layer"], r["other_head"]):
            {"p_value": r["p_value"], "matched": r["matched"]} for r in rows}


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
