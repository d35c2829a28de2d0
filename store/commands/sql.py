"""`headatlas sql`: one read-only query, answered as a table, CSV or JSON."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa

from store import places
from store.sandbox import Door


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=places.at, required=True,
                        help="the store's folder or URL")
    parser.add_argument("query", help="one SELECT over the tables that `headatlas schema` lists")
    parser.add_argument("--format", choices=sorted(FORMATS), default="table")
    parser.add_argument("--timeout", type=_seconds, default=300, metavar="SECONDS",
                        help="stop a query that runs longer (default: 300)")


def run(args: argparse.Namespace) -> None:
    rows = Door(args.store, seconds=args.timeout).query(args.query)
    print(FORMATS[args.format](rows))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: more than 0, up to 86400 seconds")
    return seconds


def as_table(rows: pa.Table) -> str:
    """Aligned columns; numbers to six significant digits, to the right."""
    cells = [[_cell(v) for v in column.to_pylist()] for column in rows.columns]
    widths = [max(map(len, [name, *column]))
              for name, column in zip(rows.column_names, cells, strict=True)]
    right = [pa.types.is_integer(f.type) or pa.types.is_floating(f.type) for f in rows.schema]

    def line(values: list[str]) -> str:
        return "  ".join(v.rjust(w) if r else v.ljust(w)
                         for v, w, r in zip(values, widths, right, strict=True)).rstrip()

    body = [line([column[i] for column in cells]) for i in range(rows.num_rows)]
    plural = "row" if rows.num_rows == 1 else "rows"
    return "\n".join([line(rows.column_names), line(["-" * w for w in widths]), *body,
                      f"({rows.num_rows} {plural})"])


def as_csv(rows: pa.Table) -> str:
    """RFC 4180 with a header; NULL is empty, nested values are JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows(zip(*[[_csv_cell(v) for v in c.to_pylist()] for c in rows.columns],
                         strict=True))
    return buffer.getvalue().rstrip("\n")


def as_json(rows: pa.Table) -> str:
    """A list of objects; NaN and NULL are null."""
    records = [dict(zip(rows.column_names, values, strict=True))
               for values in zip(*[c.to_pylist() for c in rows.columns], strict=True)]
    return json.dumps(_jsonable(records), indent=1, ensure_ascii=False)


FORMATS: dict[str, Callable[[pa.Table], str]] = {
    "table": as_table, "csv": as_csv, "json": as_json}


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, (list, dict)):
        return json.dumps(_jsonable(value), ensure_ascii=False)
    return " ".join(str(value).split())


def _csv_cell(value: object) -> object:
    if isinstance(value, (list, dict)):
        return json.dumps(_jsonable(value), ensure_ascii=False)
    return value.hex() if isinstance(value, bytes) else value


def _jsonable(value: object) -> object:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
