"""Partial pruning among the arrays that the page filters by (see `store.series_tables`)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from store.lists import dense
from store.partial_queries import QUANTITIES
from store.reader import Store

TABLE = "partial_pruning"


def partial_arrays(store: Store, blocks: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Of the one model that `store` holds rows of; none where it has no partial pruning. `blocks`:
    layers, each with how many heads it has."""
    images, modes = (store.query(f"SELECT DISTINCT {name} AS v FROM {TABLE} ORDER BY v")["v"]
                     for name in ("image", "mode"))
    if not len(images):
        return {}
    axes = images.to_numpy(), np.array(modes.to_pylist())
    names: dict[int, str] = {}
    parts = [_block(store, *block, *axes, names) for block in blocks]
    lists = max(part["partial.classes"].shape[-1] for part in parts)
    for part in parts:
        for name, nothing in (("partial.classes", -1), ("partial.chances", 0)):
            room = [(0, 0)] * 3 + [(0, lists - part[name].shape[-1])]
            part[name] = np.pad(part[name], room, constant_values=nothing)
    words = json.dumps({"modes": modes.to_pylist(), "classes": names}, sort_keys=True)
    return {"partial.image": images.to_numpy().astype(np.int32),
            "partial.words": np.frombuffer(words.encode(), np.uint8),
            **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}}


def _block(store: Store, layer: int, heads: int, images: np.ndarray, modes: np.ndarray,
           names: dict[int, str]) -> dict[str, np.ndarray]:
    """The arrays of one layer's heads; adds to the names of classes."""
    columns = ", ".join(f"{name}::FLOAT AS {name}" for name in QUANTITIES)
    rows = store.query(f"SELECT head, mode, image, {columns}, top5 FROM {TABLE} "
                       "WHERE layer = $layer", {"layer": layer})
    place = (rows["head"].to_numpy(), _found(rows["mode"], modes), _found(rows["image"], images))
    shape = heads, len(modes), len(images)
    lists = dense(rows["top5"], place, shape)
    names |= lists.names
    there = np.zeros(shape, bool)
    there[place] = True
    return {"partial.there": there, "partial.listed": lists.there,
            "partial.classes": lists.classes.astype(np.int32),
            "partial.chances": lists.chances.astype(np.float32),
            **{f"partial.{name}": _laid_out(rows[name], place, shape) for name in QUANTITIES}}


def _found(column: pa.ChunkedArray, among: np.ndarray) -> np.ndarray:
    return np.searchsorted(among, column.to_numpy())


def _laid_out(column: pa.ChunkedArray, place: tuple[np.ndarray, ...], shape: tuple[int, ...]
              ) -> np.ndarray:
    """float32 of this shape, NaN where undefined."""
    values, found = np.full(shape, np.nan, np.float32), column.to_numpy(zero_copy_only=False)
    values[place] = np.where(np.isfinite(found), found, np.nan)
    return values
