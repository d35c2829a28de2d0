"""What the read-only SQL door lets through: one query over the schema's tables, and nothing else.

DuckDB's own tree of a statement is read, so that comments, quotes and spelling hide nothing. A name
in FROM must be a table of the schema or one that the query itself names *at that place*: elsewhere
DuckDB would find a file or one of its own tables under it.
"""

from __future__ import annotations

import difflib
import json

import duckdb

from store.errors import QueryError
from store.explain import in_words, where
from store.schema import TABLES

MOST_CHARACTERS = 100_000
QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_FUNCTIONS = {"unnest", "range", "generate_series"}
PLACES = ((), ("main",), ("memory",), ("memory", "main"))
"""Catalog and schema that a table's name may stand in."""

REFUSED_FUNCTIONS = {
    "current_setting", "getenv", "getvariable",
    "write_log", "parse_duckdb_log_message", "stats", "get_block_size",
    "nextval", "currval", "setval", "setseed",
    "sleep_ms", "pg_sleep",
    "json_serialize_plan", "json_deserialize_sql", "json_execute_serialized_sql",
    "current_query", "current_query_id", "current_connection_id", "current_transaction_id",
    "txid_current", "query", "query_table",
}
"""Functions that tell about the server, change what outlives the query, or only waste time."""


def check_statement(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise QueryError unless `sql` is one statement that can only read."""
    if len(sql) > MOST_CHARACTERS:
        raise QueryError(f"the statement has {len(sql):,} characters; at most {MOST_CHARACTERS:,} "
                         "are read")
    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, found {len(statements)}")
    kind = _kind(statements[0])
    if kind == "MULTI":
        raise QueryError("a PIVOT must list its values: PIVOT ... ON column IN (...) USING ...")
    if kind != "SELECT":
        raise QueryError(f"only queries (SELECT, WITH, FROM, DESCRIBE) are answered here, not "
                         f"{kind}")
    [(serialised,)] = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    try:
        tree = json.loads(serialised)
        if tree.get("error"):
            raise QueryError("only plain queries are answered here: "
                             + in_words(str(tree.get("error_message"))))
        _check(tree, frozenset())
    except RecursionError:
        raise QueryError("the query is nested too deeply") from None
    except _RefusedError as refused:
        raise QueryError(f"{refused}{where(refused.position, sql)}") from None


def _kind(statement: duckdb.Statement) -> str:
    """The statement's type; DuckDB has some that its Python client does not know by name."""
    try:
        return statement.type.name
    except ValueError:
        return "a statement of another kind"


class _RefusedError(Exception):
    """What is refused in words, and the byte of the statement where it stands."""

    def __init__(self, words: str, node: dict) -> None:
        super().__init__(words)
        self.position = str(node.get("query_location", ""))


def _check(item: object, named: frozenset[str]) -> None:
    """Check a part of a tree, where `named` are the tables that the query has named so far."""
    if isinstance(item, list):
        for one in item:
            _check(one, named)
    elif isinstance(item, dict):
        _check_node(item, named)
        for entry in (item.get("cte_map") or {}).get("map") or []:
            _check(entry["value"], named)
            named |= {str(entry["key"]).lower()}
        itself = {str(item["cte_name"]).lower()} if item.get("type") == "RECURSIVE_CTE_NODE" \
            else set()
        for key, value in item.items():
            if key != "cte_map":
                _check(value, named | itself if key == "right" else named)


def _check_node(node: dict, named: frozenset[str]) -> None:
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and kind not in QUERY_NODES:
        raise _RefusedError(f"only queries are answered here, not {_words(kind)}", node)
    if kind == "FUNCTION" and str(node.get("function_name", "")).lower() in REFUSED_FUNCTIONS:
        raise _RefusedError(f"function {node['function_name']!r} is not allowed here", node)
    if kind == "BASE_TABLE":
        _check_table(node, named)
    if kind == "SHOW_REF" and not node.get("query"):
        name = str(node.get("table_name", "")).strip('"').lower()
        if name not in TABLES and name != "tables":
            raise _RefusedError(f"only tables are shown here, not {name!r}", node)
    if kind == "TABLE_FUNCTION":
        name = str((node.get("function") or {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise _RefusedError(f"table function {name!r} is not allowed; the store's tables are, "
                           f"and {', '.join(sorted(TABLE_FUNCTIONS))}", node)


def _check_table(node: dict, named: frozenset[str]) -> None:
    *place, name = [str(part).lower() for part in node["qualified_name"]["path"]]
    if place in ([], ["recurring"]) and name in named:
        return
    if tuple(place) not in PLACES or name not in TABLES:
        close = difflib.get_close_matches(name, [*TABLES, *named], 1)
        hint = f"did you mean {close[0]}?" if close else f"the tables are {', '.join(TABLES)}"
        raise _RefusedError(f"there is no table {'.'.join([*place, name])!r}; {hint}", node)


def _words(kind: str) -> str:
    return kind.removesuffix("_NODE").replace("_", " ")
