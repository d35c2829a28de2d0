"""The read-only SQL door: what a person typed, run on a locked-down connection.

A statement that DuckDB types SELECT can still write files (a COPY inside a WITH), so its type is
not enough. Three locks; the second alone would still let a COPY overwrite the store's own files:

1. exactly one statement, whose syntax tree holds only query nodes, tables that the schema or
   the query itself names, and harmless table functions;
2. the connection may open the store's own Parquet files and nothing else, and its settings are
   locked;
3. time, memory and spilling to disk are bounded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from store.errors import QueryError
from store.reader import Store, first_line, unglobbed
from store.schema import TABLES

QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_FUNCTIONS = {"unnest", "range", "generate_series"}
REFUSED_FUNCTIONS = {"current_setting", "write_log", "getenv", "getvariable", "nextval"}
BATCH_ROWS = 65_536
MOST_BYTES = 1 << 30


class Door:
    """Answers SQL over a store. `seconds` bounds a query's time, `memory` its working memory."""

    def __init__(self, path: str | Path, seconds: float = 60, memory: str = "2GB") -> None:
        self._store = Store(Path(path), {
            "max_execution_time": int(seconds * 1000),
            "memory_limit": memory,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        })
        self._seconds = seconds
        files = [spelling for paths in self._store.files.values() for file in paths
                 for spelling in (str(file.absolute()), unglobbed(file))]
        with self._store.cursor() as cursor:
            cursor.execute("SET GLOBAL max_temp_directory_size = '0B'")
            cursor.execute("SET GLOBAL allowed_paths = ?", [files])
            cursor.execute("SET GLOBAL enable_external_access = false")
            cursor.execute("SET GLOBAL lock_configuration = true")

    def query(self, sql: str, max_rows: int | None = None) -> pa.Table:
        """The rows of one typed query. Raises QueryError for anything else, or if it fails."""
        with self._store.cursor() as cursor:
            check_statement(cursor, sql)
            try:
                limited = sql if max_rows is None else f"FROM ({_bare(sql)}\n) LIMIT {max_rows}"
                return self._fetch(cursor, limited)
            except (duckdb.Error, pa.ArrowException, OSError) as error:  # Arrow hands on DuckDB's
                if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in str(error):
                    raise QueryError(self._too_long) from error
                raise QueryError(first_line(error)) from error

    @property
    def _too_long(self) -> str:
        return f"stopped: the query ran longer than {self._seconds:g} s"

    def _fetch(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
        """Take the answer in batches: DuckDB bounds its own time and memory, not the answer's."""
        started, size, batches = time.monotonic(), 0, []
        reader = cursor.sql(sql).to_arrow_reader(BATCH_ROWS)
        for batch in reader:
            batches.append(batch)
            size += batch.nbytes
            if size > MOST_BYTES:
                raise QueryError(f"stopped: the answer is larger than {MOST_BYTES >> 20} MB; "
                                 "add a LIMIT, or summarise")
            if time.monotonic() - started > self._seconds:
                raise QueryError(self._too_long)
        return pa.Table.from_batches(batches, reader.schema)

    def close(self) -> None:
        self._store.close()


def check_statement(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise QueryError unless `sql` is one statement that can only read."""
    try:
        statements = cursor.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(first_line(error)) from error
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, found {len(statements)}")
    if statements[0].type == duckdb.StatementType.MULTI:
        raise QueryError("a PIVOT must list its values: PIVOT ... ON column IN (...) USING ...")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError(f"only queries (SELECT, WITH, FROM, DESCRIBE) are answered here, not "
                         f"{statements[0].type.name}")
    [(serialised,)] = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    tree = json.loads(serialised)
    if tree.get("error"):
        raise QueryError(f"only plain queries are answered here: {tree.get('error_message')}")
    nodes = list(_nodes(tree))
    local = {str(node["key"]).lower() for node in nodes if "key" in node}
    for node in nodes:
        _check_node(node, local)


def _check_node(node: dict, local: set[str]) -> None:
    """Raise QueryError for anything but query nodes over our tables, those that the query names
    itself (`local`) and harmless table functions."""
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and kind not in QUERY_NODES:
        raise QueryError(f"only queries are answered here, not {_words(kind)}")
    if kind == "FUNCTION" and str(node.get("function_name", "")).lower() in REFUSED_FUNCTIONS:
        raise QueryError(f"function {node['function_name']!r} is not allowed here")
    if kind == "BASE_TABLE":
        name = str(node.get("table_name", "")).lower()
        if name not in TABLES and name not in local:
            raise QueryError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
    if kind == "TABLE_FUNCTION":
        name = str(node.get("function", {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise QueryError(f"table function {name!r} is not allowed; the store's tables are, "
                             f"and {', '.join(sorted(TABLE_FUNCTIONS))}")


def _bare(sql: str) -> str:
    return sql.strip().rstrip(";")


def _nodes(tree: object) -> Iterator[dict]:
    """Every object of a JSON tree."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _words(kind: str) -> str:
    return kind.removesuffix("_NODE").replace("_", " ")
