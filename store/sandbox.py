"""The read-only SQL door: what a person typed, run on a locked-down connection.

A statement that DuckDB types SELECT can still write files (a COPY inside a WITH), so its type is
not enough. Three locks; the second alone would still let a COPY overwrite the store's own files:

1. exactly one statement, whose syntax tree holds only query nodes, tables that the schema or
   the query itself names, and harmless functions (`store.statements`);
2. the connection may open the store's own Parquet files and nothing else, and its settings are
   locked;
3. time, memory and spilling to disk are bounded.

DuckDB looks at its bounds now and then, and some functions never do: where other people share the
process, a Door belongs into one of its own (`store.doors`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from store import places
from store.errors import QueryError
from store.explain import explain
from store.reader import Store, unglobbed
from store.remote import Place
from store.schema import TABLES
from store.statements import check_statement

BATCH_ROWS = 65_536
MOST_BYTES = 1 << 30
LOOK_SECONDS = 2.0
EXPLAIN = "EXPLAIN "


@dataclass(frozen=True)
class Reading:
    """An answer that is being read: its columns, their types in SQL, and batches of rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Door:
    """Answers SQL over a store as it grows. `seconds` bounds a query's time, `memory` its working
    memory; `threads` work on it, by default all."""

    def __init__(self, path: str | Place, seconds: float = 60, memory: str = "2GB",
                 threads: int | None = None) -> None:
        self._path, self._seconds = places.at(path), seconds
        self._memory, self._threads = memory, threads
        self._lock = threading.Lock()
        self._versions, self._looked = _versions(self._path), time.monotonic()
        self._store = self._open()

    def _open(self) -> Store:
        store = Store(self._path, {
            "max_execution_time": int(self._seconds * 1000),
            "memory_limit": self._memory,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            **({} if self._threads is None else {"threads": self._threads}),
        })
        files = [spelling for paths in store.files.values() for file in paths
                 for spelling in (str(file.absolute()), unglobbed(file))]
        with store.cursor() as cursor:
            cursor.execute("SET GLOBAL max_temp_directory_size = '0B'")
            cursor.execute("SET GLOBAL allowed_paths = ?", [files])
            cursor.execute("SET GLOBAL enable_external_access = false")
            cursor.execute("SET GLOBAL errors_as_json = true")
            cursor.execute("SET GLOBAL lock_configuration = true")
        return store

    def _now(self) -> Store:
        """The store as it is; one that has changed is opened again, queries on the old one end."""
        with self._lock:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                versions, self._looked = _versions(self._path), time.monotonic()
                if versions != self._versions:
                    self._store, self._versions = self._open(), versions
            return self._store

    def query(self, sql: str, max_rows: int | None = None) -> pa.Table:
        """The rows of one typed query. Raises QueryError for anything else, or if it fails."""
        with self.reading(sql) as answer:
            size, rows, taken = 0, 0, []
            for batch in answer.batches:
                taken.append(batch)
                size, rows = size + batch.nbytes, rows + batch.num_rows
                if size > MOST_BYTES:
                    raise QueryError(f"stopped: the answer is larger than {MOST_BYTES >> 20} MB; "
                                     "add a LIMIT, or summarise")
                if max_rows is not None and rows >= max_rows:
                    break
            return pa.Table.from_batches(taken, answer.schema).slice(0, max_rows)

    @contextmanager
    def reading(self, sql: str, batch_rows: int = BATCH_ROWS) -> Iterator[Reading]:
        """The answer in batches: DuckDB bounds its own time and memory, not the answer's."""
        try:
            with self._now().cursor() as cursor:
                check_statement(cursor, sql)
                deadline = time.monotonic() + self._seconds
                relation = _bound(cursor, sql)
                reader = relation.to_arrow_reader(batch_rows)
                yield Reading(tuple(relation.columns), tuple(map(str, relation.types)),
                              reader.schema, self._in_time(reader, deadline))
        except duckdb.OutOfMemoryException as error:
            raise QueryError(self._too_big) from error
        except (duckdb.Error, pa.ArrowException, OSError) as error:  # Arrow hands on DuckDB's
            if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in str(error):
                raise QueryError(self._too_long) from error
            if "Out of Memory Error" in str(error):
                raise QueryError(self._too_big) from error
            raise QueryError(explain(error, sql)) from error

    def _in_time(self, reader: pa.RecordBatchReader, deadline: float
                 ) -> Iterator[pa.RecordBatch]:
        for batch in reader:
            yield batch
            if time.monotonic() > deadline:
                raise QueryError(self._too_long)

    @property
    def _too_long(self) -> str:
        return f"stopped: the query ran longer than {self._seconds:g} s"

    @property
    def _too_big(self) -> str:
        return f"stopped: the query needed more than {self._memory} of memory"

    def close(self) -> None:
        self._store.close()


def _bound(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """The query as a relation, which streams. What it says of an unknown name lacks the place."""
    try:
        return cursor.sql(sql)
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        try:
            cursor.execute(EXPLAIN + sql)
        except (duckdb.BinderException, duckdb.CatalogException) as placed:
            raise QueryError(explain(placed, EXPLAIN + sql, len(EXPLAIN))) from placed
        raise error


def _versions(path: Place) -> dict[Place, tuple[int, int]]:
    """Every file of a store's tables, with its size and time."""
    found: dict[Place, tuple[int, int]] = {}
    for file in (file for name in TABLES for file in places.files_of(path, name)):
        try:
            status = file.stat()
        except OSError:
            continue
        found[file] = (status.st_size, status.st_mtime_ns)
    return found
