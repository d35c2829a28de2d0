"""`headatlas schema`: every table and column, from the one definition."""

from __future__ import annotations

import argparse
import json

import pyarrow as pa

from store.schema import FORMAT, TABLES, Column, Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text")


def run(args: argparse.Namespace) -> None:
    print({"text": _text, "markdown": _markdown, "json": _json}[args.format]())


def type_name(kind: pa.DataType) -> str:
    """An Arrow type in SQL's words."""
    if pa.types.is_list(kind):
        return type_name(kind.value_type) + "[]"
    if pa.types.is_struct(kind):
        return "struct(" + ", ".join(f"{f.name} {type_name(f.type)}" for f in kind) + ")"
    return {"string": "text", "bool": "boolean", "binary": "blob"}.get(str(kind), str(kind))


def _facts(column: Column) -> dict[str, str]:
    return {"column": column.name, "type": type_name(column.type), "unit": column.unit,
            "range": column.range, "meaning": column.text, "source": column.source}


def _text() -> str:
    lines = [f"store format {FORMAT}"]
    for table in TABLES.values():
        lines += ["", f"{table.name}: {table.text} (key: {', '.join(table.keys)})"]
        lines += [_line(column) for column in table.columns]
    return "\n".join(lines)


def _line(column: Column) -> str:
    notes = [f"unit: {column.unit}" if column.unit else "",
             f"range: {column.range}" if column.range else "",
             f"source: {column.source}" if column.source else ""]
    noted = "; ".join(n for n in notes if n)
    return (f"  {column.name:<28} {type_name(column.type):<10} {column.text}"
            + (f" [{noted}]" if noted else ""))


def _markdown() -> str:
    return "\n\n".join(_markdown_table(table) for table in TABLES.values())


def _markdown_table(table: Table) -> str:
    head = ("| column | type | unit | range | meaning | source |\n"
            "| --- | --- | --- | --- | --- | --- |")
    rows = ("| " + " | ".join(v.replace("|", "\\|") for v in _facts(c).values()) + " |"
            for c in table.columns)
    return f"### `{table.name}`\n\n{table.text}\n\n{head}\n" + "\n".join(rows)


def _json() -> str:
    return json.dumps({"format": FORMAT, "tables": {
        t.name: {"text": t.text, "keys": t.keys, "columns": [_facts(c) for c in t.columns]}
        for t in TABLES.values()}}, indent=2)
