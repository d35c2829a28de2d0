"""What a table is, and the columns and types that tables share."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from store.measures import FLOAT, Column

TEXT, INT, BIG, SMALL = pa.string(), pa.int32(), pa.int64(), pa.int16()
PLACES = pa.list_(pa.int32())
TOP5 = pa.list_(pa.struct([("class", pa.int32()), ("name", TEXT), ("probability", FLOAT)]))


@dataclass(frozen=True)
class Table:
    """One table: its grain (`keys`), its columns, and the files that hold it inside a store.

    `rows_at_once`: rows of a Parquet row group, where one must be readable without its neighbours.
    """

    name: str
    text: str
    files: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    rows_at_once: int | None = None

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(c.name, c.type) for c in self.columns])

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name!r}")


MODEL = Column("model", TEXT, "name of the model, as shown")
IMAGE = Column("image", INT, "number of the image, from 0, in order of path within one import")
LAYER = Column("layer", SMALL, "transformer block, from 0")
HEAD = Column("head", SMALL, "head within its block, from 0")
