"""A query with its parameters written in, to be read or run by a person."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_PARTS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<name>\w+)")


def written_in(sql: str, params: Mapping[str, object]) -> str:
    """The statement with a literal in place of each `$name`, those in quotes aside."""
    return _PARTS.sub(lambda found: found[0] if found["name"] is None
                      else literal(params[found["name"]]), sql)


def literal(value: object) -> str:
    """The value in SQL. TypeError for a type that no parameter of ours has."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}::DOUBLE" if math.isfinite(value) else f"'{value}'::DOUBLE"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]{_list_type(value)}"
    raise TypeError(f"no literal for {type(value).__name__}")


def _quoted(text: str) -> str:
    """DuckDB ends a statement at a NUL, so that it is put together."""
    parts = ["'" + part.replace("'", "''") + "'" for part in text.split("\0")]
    return parts[0] if len(parts) == 1 else f"({' || chr(0) || '.join(parts)})"


def _list_type(values: list | tuple) -> str:
    return "::VARCHAR[]" if values and all(isinstance(one, str) for one in values) else ""
