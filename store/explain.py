"""DuckDB's errors in one line: what is wrong, what it suggests, and where."""

from __future__ import annotations

import json

MOST_LETTERS = 600
NEW_LINE = "\n"


def explain(error: Exception, sql: str, skip: int = 0) -> str:
    """The error of a connection with `errors_as_json`: message, hint, line and column in `sql`
    without its first `skip` characters (ASCII, and no line end)."""
    kind, _, text = str(error).partition(": ")
    try:
        told = json.loads(text)
        message, place = str(told["exception_message"]), told.get("position", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return in_words(str(error))
    return f"{kind}: {in_words(message)}{where(str(place), sql, skip)}"


def in_words(message: str) -> str:
    """The lines of a message as one, without DuckDB's drawing of the statement."""
    lines = [" ".join(line.split()) for line in message.split("\nLINE ")[0].splitlines()]
    said = "; ".join(line.rstrip(".,;!") for line in lines if line) or "no reason given"
    said = said.replace(":; ", ": ")
    return said if len(said) <= MOST_LETTERS else said[:MOST_LETTERS] + " ..."


def where(position: str, sql: str, skip: int = 0) -> str:
    """Line and column, from 1, of a byte of the statement; nothing where there is no such byte."""
    if not position.isdigit() or not skip <= int(position) <= len(sql.encode()):
        return ""
    before = sql.encode()[skip:int(position)].decode(errors="replace")
    return f" (line {before.count(NEW_LINE) + 1}, column {len(before) - before.rfind(NEW_LINE)})"
