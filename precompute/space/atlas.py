"""A store whose patterns are laid out: its files, its spaces, and from what things are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from precompute.freshness import digest, read_note, write_made
from precompute.space.space import Space, from_bytes
from store import places
from store.reader import Store
from store.schema import TABLES
from store.writer import StoreWriter, to_table


@dataclass(frozen=True)
class Atlas:
    """A store as it is when a space is asked for the first time."""

    writer: StoreWriter

    @property
    def path(self) -> Path:
        return self.writer.path

    @property
    def models(self) -> list[str]:
        """The models whose heads are summarised."""
        return [model for model in places.models_of(self.path)
                if self.file("heads", model).exists()]

    def file(self, table: str, model: str = "") -> Path:
        """The file of a table that has one, or one a model."""
        shape = TABLES[table].files
        return self.path / shape.replace("models/*/", f"models/{places.slug(model)}/")

    def store(self, *tables: str) -> Store:
        return Store(self.path, tables=tables)

    @cached_property
    def rows(self) -> dict[str, dict]:
        """The rows of `pattern_spaces`, by kind."""
        found = self.store("pattern_spaces").query("FROM pattern_spaces ORDER BY kind").to_pylist()
        return {row["kind"]: row for row in found}

    @cached_property
    def spaces(self) -> Mapping[str, Space]:
        """The spaces there are, by kind."""
        return {kind: from_bytes(kind, row["weights"]) for kind, row in self.rows.items()}

    @cached_property
    def ids(self) -> bytes:
        """A short name for all the spaces."""
        return digest(row["space_id"] for row in self.rows.values())

    def heads_of(self, *models: str) -> bytes:
        """A short name for the spaces and these models' mean patterns."""
        return digest([str(self.ids), *(f"{model} {read_note(self.file('heads', model))!r}"
                                        for model in models)])


def write_rows(atlas: Atlas, table: str, file: Path, rows: list[dict], made_from: bytes) -> None:
    """Rows (each with all columns of the table) as a file that says what it was made from."""
    write_made(atlas.writer, file, columns_of(table, rows), made_from)


def columns_of(table: str, rows: list[dict]) -> pa.Table:
    return to_table(table, {name: [row[name] for row in rows]
                            for name in TABLES[table].arrow.names})
