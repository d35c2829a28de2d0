"""Questions of `store.partial_queries` answered from memory: what is read of a head is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from store.query import Ask
from store.reader import Store
from store.schema import TABLES
from store.selection import HeadKey

TABLE = TABLES["partial_pruning"]
_KEY = {"model": pa.string(), "layer": pa.int16(), "head": pa.int16(), "mode": pa.string()}
_NUMBERS = {"value": pa.float64(), "low": pa.float64(), "high": pa.float64(), "images": pa.int64(),
            "everything": pa.int64()}
_CLASSES = {"class": pa.int32(), "name": pa.string(), "probability": pa.float64(),
            "listed": pa.int64(), "images": pa.int64()}


@dataclass(frozen=True)
class Parts:
    """One quantity of one model's partial pruning. `images`: int[image]; `heads`: the row of each
    (layer, head); `modes`: their names, sorted; `values`: float32[row, mode, image], NaN where
    undefined; `there`: whether there is a row of it, bool[row, mode, image]."""

    images: np.ndarray
    heads: dict[tuple[int, int], int]
    modes: tuple[str, ...]
    values: np.ndarray
    there: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.there.nbytes


def parts(store: Store, model: str, quantity: str) -> Parts:
    return store.memo.keep(("parts", model, quantity), lambda: _parts(store, model, quantity))


def _parts(store: Store, model: str, quantity: str) -> Parts:
    name = TABLE.column(quantity).name
    rows = store.query(f"SELECT layer, head, mode, image, {name} AS v "
                       f"FROM {store.part(TABLE.name, model)}")
    images, image = np.unique(rows["image"].to_numpy(), return_inverse=True)
    places = np.stack([rows["layer"].to_numpy(), rows["head"].to_numpy()], 1)
    heads, head = np.unique(places, axis=0, return_inverse=True)
    modes, mode = np.unique(np.array(rows["mode"].to_pylist(), str), return_inverse=True)
    shape = len(heads), len(modes), len(images)
    values, there = np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
    found = rows["v"].to_numpy(zero_copy_only=False)
    values[head.ravel(), mode, image] = np.where(np.isfinite(found), found, np.nan)
    there[head.ravel(), mode, image] = True
    return Parts(images, {(int(y), int(h)): i for i, (y, h) in enumerate(heads)},
                 tuple(modes.tolist()), values, there)


def by_mode(ask: Ask, quantity: str, heads: Sequence[HeadKey], focus: int | None) -> pa.Table:
    """As `partial_queries.by_mode`."""
    passing, found = ask.passing, []
    for model, layer, head in sorted(set(heads)):
        own = parts(ask.store, model, quantity)
        row = own.heads.get((layer, head))
        if row is None or model not in ask.models:
            continue
        kept = passing[own.images] if focus is None else own.images == focus
        for i, mode in enumerate(own.modes):
            there = own.there[row, i] & (kept | (focus is None))
            if there.any():
                values = own.values[row, i][there & kept].astype(np.float64)
                found.append((model, layer, head, mode, *_spread(values), len(values),
                              int(there.sum())))
    return _table({**_KEY, **_NUMBERS}, found)


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and mean -+ 1.96 standard errors; NaN where there is none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return (float("nan"),) * 3
    mean = known.mean()
    reach = 1.96 * known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
    return mean, mean - reach, mean + reach


def predictions(ask: Ask, mode: str, heads: Sequence[HeadKey], focus: int | None, top: int
                ) -> pa.Table:
    """As `partial_queries.predictions`."""
    passing, found = ask.passing, []
    for key in sorted(h for h in set(heads) if h[0] in ask.models):
        rows = _listed(ask.store, key, mode)
        image, modes = rows["image"].to_numpy(), rows["mode"].to_pylist()
        kept = passing[image] if focus is None else image == focus
        lists = rows["top5"]
        for one in sorted({"none", mode}):
            own = [lists[i].as_py() for i in np.flatnonzero(kept) if modes[i] == one]
            found += [(*key, one, *said) for said in _first(own, top)]
    return _table({**_KEY, **_CLASSES}, found)


def _listed(store: Store, head: HeadKey, mode: str) -> pa.Table:
    """The lists of classes of one head, under a mode and under none: image, mode, top5."""
    params = {"layer": head[1], "head": head[2], "modes": [mode, "none"]}
    return store.memo.keep(("listed", head, mode), lambda: store.query(
        f"SELECT image, mode, top5 FROM {store.part(TABLE.name, head[0])} WHERE layer = $layer AND "
        "head = $head AND mode IN (SELECT unnest($modes::VARCHAR[])) AND top5 IS NOT NULL", params))


def _first(lists: Sequence[list[dict]], top: int) -> list[tuple]:
    """The classes with the largest mean probability: class, name, mean, how many list it, and of
    how many."""
    sums: dict[int, list] = {}
    for one in (one for listed in lists for one in listed):
        said = sums.setdefault(one["class"], [one["name"], 0.0, 0])
        said[1] += one["probability"]
        said[2] += 1
    means = [(number, name, total / len(lists), listed, len(lists))
             for number, (name, total, listed) in sums.items()]
    return sorted(means, key=lambda row: (-row[2], row[0]))[:top]


def _table(schema: dict[str, pa.DataType], rows: Sequence[tuple]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table({name: pa.array(values, kind, from_pandas=True)
                     for (name, kind), values in zip(schema.items(), columns, strict=True)})
