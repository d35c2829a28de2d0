"""DuckDB over a store, read-only: the one place that executes SQL.

Statements come from `store.queries` (values only as parameters) or, when a person typed them,
through `store.sandbox`.
"""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from store import places, sums
from store.errors import StoreError
from store.memo import ARRAYS, Memo
from store.remote import Place, Remote
from store.schema import TABLES

Params = Sequence[object] | Mapping[str, object]
Settings = dict[str, str | int | float | list[str]]


def open_store(path: str | Place) -> Store:
    """Open a store for reading: a folder, or a URL such as s3://bucket/atlas. Raises StoreError if
    there is none, or of another format.

    >>> store = open_store("real-atlas")                                      # doctest: +SKIP
    >>> store.query("SELECT model, layers, heads FROM models").to_pylist()    # doctest: +SKIP
    """
    return Store(places.at(path))


@dataclass(frozen=True)
class Bound:
    """The files behind a table, those that are left out, and the versions of the former."""

    files: list[Place]
    damaged: list[Place]
    versions: list[tuple[int, int]]


_LEAN: Settings = {"allocator_flush_threshold": "1MB",
                   "allocator_bulk_deallocation_flush_threshold": "1MB"}
"""Memory that a query is done with goes back to the system, and is not kept for the next one."""

_WORDS = re.compile(r"\w+")


class Store:
    """A store, each table as it was when it was first asked for; `refresh` looks again. Safe to
    share between threads.

    A large store has thousands of files, and a page needs few of them. With `tables`, only these
    are there; with `model`, only what they hold of this model.
    """

    def __init__(self, path: Place, settings: Settings | None = None,
                 tables: Iterable[str] = TABLES, model: str | None = None) -> None:
        places.check_store(path)
        self.path = path
        self._tables, self._model = tuple(tables), model
        self._connection = duckdb.connect(config={**_LEAN, **(settings or {})})
        if isinstance(path, Remote):
            self._connection.register_filesystem(path.listing.duckdb)
        # footers of files with a row group per head are long, and read once instead of per query
        self._connection.execute("LOAD parquet; SET GLOBAL parquet_metadata_cache = true")
        self._bound: dict[str, Bound] = {}
        self._looked_at: dict[tuple[Place, int, int], bool] = {}
        self._lock = threading.RLock()
        self._folders = places.folders(path)
        self.memo, self.arrays = Memo(), Memo(ARRAYS)

    def refresh(self) -> bool:
        """Look again at the tables that were asked for; True if anything in the store changed."""
        with self._lock:
            folders = places.folders(self.path)
            if folders is not None and folders == self._folders:
                return False
            changed = folders != self._folders
            self._folders = folders
            for name, bound in list(self._bound.items()):
                found = self._find(name)
                if found != bound:
                    self._bind(name, found)
                    changed = True
            if changed:
                self.memo.clear()
                self.arrays.clear()
            return changed

    def _need(self, names: Iterable[str]) -> None:
        """Bind these tables, of those that are not yet."""
        with self._lock:
            for name in set(names).intersection(self._tables).difference(self._bound):
                self._bind(name, self._find(name))

    def _find(self, name: str) -> Bound:
        there = places.files_of(self.path, name, self._model)
        readable = self._readable(name, there)
        return Bound(readable, sorted(set(there) - set(readable)),
                     [_version(file) for file in readable])

    def _bind(self, name: str, found: Bound) -> None:
        """Bind a table to its files, but for those whose footer only DuckDB finds wrong."""
        try:
            _bind(self._connection, name, found.files)
        except duckdb.Error:
            for file, version in zip(found.files, found.versions, strict=True):
                self._looked_at[file, *version] = self._can_bind(name, file)
            found = self._find(name)
            _bind(self._connection, name, found.files)
        self._bound[name] = found

    def _can_bind(self, name: str, file: Place) -> bool:
        with self._cursor() as cursor:
            try:
                cursor.execute(f"DESCRIBE FROM {_source(name, [file])}")
            except duckdb.Error:
                return False
        return True

    @property
    def damaged(self) -> list[Place]:
        """Files that cannot be read: their rows are left out, everything else is there."""
        self._need(self._tables)
        return [file for name in self._tables for file in self._bound[name].damaged]

    def _readable(self, table: str, files: list[Place]) -> list[Place]:
        """Those of a table's files that are Parquet with its columns; each is looked at once."""
        versions = [(file, *_version(file)) for file in files]
        fresh = [version for version in versions if version not in self._looked_at]
        if fresh:
            columns = TABLES[table].arrow.names
            with ThreadPoolExecutor() as threads:
                fine = threads.map(lambda version: sums.is_readable(version[0], columns), fresh)
                self._looked_at |= zip(fresh, fine, strict=True)
        return [version[0] for version in versions if self._looked_at[version]]

    @property
    def files(self) -> dict[str, list[Place]]:
        """The Parquet files behind each table."""
        self._need(self._tables)
        return {name: self._bound[name].files for name in self._tables}

    def part(self, table: str, model: str) -> str:
        """What to select from in place of a table for the rows of one model: its files alone."""
        return _source(table, self.files_of(table, model))

    def files_of(self, table: str, model: str) -> list[Place]:
        """The files that hold a table's rows of one model."""
        self._need([table])
        folder = f"/models/{places.slug(model)}/"
        return [file for file in self._bound[table].files if folder in str(file)]

    def query(self, sql: str, params: Params = ()) -> pa.Table:
        """The rows of one of our own statements, as an Arrow table."""
        self._need(_WORDS.findall(sql))
        with self._cursor() as cursor:
            try:
                return cursor.sql(sql, params=params).to_arrow_table()
            except duckdb.Error as error:
                raise StoreError(f"the store at {self.path} cannot be read: {first_line(error)}"
                                 ) from error

    def kept(self, sql: str, params: Mapping[str, object] | None = None) -> pa.Table:
        """The same, answered from memory where it was asked before and the store has not changed.
        """
        key = ("sql", sql, pickle.dumps(params))
        return self.memo.keep(key, lambda: self.query(sql, params or {}))

    def cursor(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A cursor of one's own, over all tables: a connection shared by threads returns wrong
        rows."""
        self._need(self._tables)
        return self._cursor()

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            cursor = self._connection.cursor()
        except duckdb.ConnectionException as error:
            raise StoreError(f"the store at {self.path} is closed") from error
        try:
            yield cursor
        finally:
            cursor.close()

    def close(self) -> None:
        self._connection.close()


def _version(file: Place) -> tuple[int, int]:
    """Size and time of a file; of one that is gone, what no file has."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _bind(connection: duckdb.DuckDBPyConnection, name: str, files: list[Place]) -> None:
    """Make `name` a view of its files."""
    connection.execute(f"CREATE OR REPLACE VIEW {name} AS FROM {_source(name, files)}")


def _source(name: str, files: list[Place]) -> str:
    """The rows of a table in these files; an empty table of the same columns if there are none."""
    if files:
        listed = ", ".join(_literal(unglobbed(file)) for file in files)
        source = f"read_parquet([{listed}], hive_partitioning = false)"
        return f"(SELECT {_columns(name)} FROM {source})"
    typed = ", ".join(f"NULL::{type_name(c.type)} AS \"{c.name}\"" for c in TABLES[name].columns)
    return f"(SELECT {typed} LIMIT 0)"


def _columns(name: str) -> str:
    return ", ".join(f'"{c.name}"' for c in TABLES[name].columns)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def unglobbed(file: Place) -> str:
    """The absolute path, written so that DuckDB does not read it as a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(file.absolute()))


_SQL_TYPES = {
    pa.string(): "VARCHAR", pa.int16(): "SMALLINT", pa.int32(): "INTEGER", pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT", pa.uint16(): "USMALLINT", pa.float32(): "FLOAT",
    pa.bool_(): "BOOLEAN", pa.binary(): "BLOB",
}


def type_name(kind: pa.DataType) -> str:
    """The DuckDB name of an Arrow type that the schema uses."""
    if pa.types.is_list(kind):
        return type_name(kind.value_type) + "[]"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f'"{f.name}" {type_name(f.type)}' for f in kind) + ")"
    return _SQL_TYPES[kind]


def first_line(error: BaseException) -> str:
    """What DuckDB says, without its drawing of the statement."""
    return str(error).strip().splitlines()[0]
