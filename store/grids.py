"""Rows of heads as one array a model, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

KEY = ("model", "layer", "head")


def coded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct names of a column of text, as they first come, and the number of each row's."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def by_model(rows: pa.Table, column: str) -> dict[str, np.ndarray]:
    """model -> float64[layer, head], NaN where a row is missing or NULL."""
    names, code = coded(rows["model"])
    layer, head, value = (rows[c].to_numpy() for c in ("layer", "head", column))
    found = {}
    for i, name in enumerate(names):
        own = code == i
        found[name] = np.full((layer[own].max() + 1, head[own].max() + 1), np.nan)
        found[name][layer[own], head[own]] = value[own]
    return found


def at(rows: pa.Table, grids: Mapping[str, np.ndarray], key: Sequence[str] = KEY) -> np.ndarray:
    """float64[row]: what the grids of `by_model` hold at each row's head, NaN where nothing."""
    names, code = coded(rows[key[0]])
    layer, head = (rows[c].to_numpy() for c in key[1:])
    found = np.full(rows.num_rows, np.nan)
    for i, name in enumerate(names):
        grid = grids.get(name, np.empty((0, 0)))
        inside = (code == i) & (layer < grid.shape[0]) & (head < grid.shape[1])
        found[inside] = grid[layer[inside], head[inside]]
    return found
