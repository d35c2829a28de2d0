"""Columns of a table of rows as arrays, model by model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def by_model(rows: pa.Table) -> dict[str, pa.Table]:
    """The rows of each model; no copy where they come model by model."""
    if not rows.num_rows:
        return {}
    runs = pc.run_end_encode(pc.cast(rows["model"], pa.string()).combine_chunks())
    found: dict[str, list[pa.Table]] = {}
    start = 0
    for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        found.setdefault(name, []).append(rows.slice(start, end - start))
        start = end
    return {name: pa.concat_tables(parts) for name, parts in found.items()}


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64[n]; NaN where NULL."""
    return pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """bool[n]"""
    return column.to_numpy(zero_copy_only=False).astype(bool)
