"""One row of a table whose rows are row groups of their own, read without DuckDB.

DuckDB takes longer to bind a query to files of hundreds of row groups than to read one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from store.reader import Store
from store.remote import Place
from store.schema import TABLES

Key = tuple[int, int, int]
"""Image, layer and head."""


@dataclass(frozen=True)
class Index:
    """Where each row of a model is: its file, and the number of its row group."""

    places: Mapping[Key, tuple[Place, int]]
    footers: Mapping[Place, pq.FileMetaData]

    @property
    def nbytes(self) -> int:
        return sum(footer.serialized_size for footer in self.footers.values())


def read(store: Store, table: str, model: str, key: Key) -> pa.Table | None:
    """The row of an image, a layer and a head; None where there is none. Raises OSError where its
    file cannot be read any more."""
    index = store.memo.keep(("rows", table, model), lambda: _index(store, table, model))
    if key not in index.places:
        return None
    file, group = index.places[key]
    with file.open("rb") as handle:
        parquet = pq.ParquetFile(handle, metadata=index.footers[file])
        return parquet.read_row_group(group, TABLES[table].arrow.names)


def _index(store: Store, table: str, model: str) -> Index:
    """From the least value of each column in each row group, which is the row's own."""
    places: dict[Key, tuple[Place, int]] = {}
    footers = {}
    for file in store.files_of(table, model):
        with file.open("rb") as handle:
            footers[file] = footer = pq.read_metadata(handle)
        columns = [footer.schema.names.index(name) for name in ("image", "layer", "head")]
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            said = [group.column(column).statistics for column in columns]
            if group.num_rows == 1 and all(one is not None and one.has_min_max for one in said):
                places[tuple(one.min for one in said)] = file, number
    return Index(places, footers)
