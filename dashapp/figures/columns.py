"""Columns of a table of rows as arrays, model by model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Same:
    """A table as a key: equal to another while the columns of both are the same memory.

    What the store keeps is the same memory in every answer that it is part of; so what was made of
    it can be kept too (`functools.lru_cache`). The key holds the table: no other takes its place.
    """

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self._memory = tuple(rows.column_names), tuple(
            part for column in rows.columns for chunk in column.chunks for part in _memory(chunk))

    def __hash__(self) -> int:
        return hash(self._memory)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._memory == other._memory


def _memory(chunk: pa.Array) -> Iterator[int | None]:
    """Where the values of an array lie."""
    yield from (chunk.offset, len(chunk))
    yield from (None if buffer is None else buffer.address for buffer in chunk.buffers())
    if isinstance(chunk, pa.DictionaryArray):
        yield from _memory(chunk.dictionary)


def spans(models: pa.ChunkedArray) -> dict[str, slice]:
    """Where the rows of each model are; they come model by model."""
    if not len(models):
        return {}
    runs = pc.run_end_encode(pc.cast(models, pa.string()).combine_chunks())
    names, ends = runs.values.to_pylist(), runs.run_ends.to_pylist()
    return {name: slice(start, end)
            for name, start, end in zip(names, [0, *ends], ends, strict=False)}


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64[n]; NaN where NULL."""
    return pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """bool[n]"""
    return column.to_numpy(zero_copy_only=False).astype(bool)
