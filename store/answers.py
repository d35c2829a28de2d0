"""An answer of the SQL door, written into a file: to look at, as CSV, or as Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.errors import QueryError
from store.sandbox import Reading

SHOWN_ROWS = 2_000
SHOWN_BYTES = 1_000_000
COUNT_SECONDS = 5.0
"""How long rows are counted that are not shown."""

MOST_LETTERS = 200
MOST_ITEMS = 12
LARGEST_INT = 2 ** 53
FILE_BYTES = 200 << 20
GROUP_BYTES = 32 << 20

Facts = dict[str, Any]


def show(answer: Reading, file: BinaryIO) -> Facts:
    """The first rows as JSON lists of cells, and how many rows there are: `total`, at least that
    many where not `counted`."""
    rows: list[str] = []
    size, total, until, counted = 0, 0, math.inf, True
    for batch in answer.batches:
        wanted = batch.slice(0, max(0, SHOWN_ROWS - len(rows)))
        if size < SHOWN_BYTES and wanted.num_rows:
            for row in zip(*map(_cells, wanted.columns), strict=True):
                rows.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
                size += len(rows[-1])
                if size >= SHOWN_BYTES:
                    break
        total += batch.num_rows
        if len(rows) < total:
            until = min(until, time.monotonic() + COUNT_SECONDS)
            if time.monotonic() > until:
                counted = False
                break
    columns = [{"name": name, "type": kind, "number": _is_number(field.type)} for name, kind, field
               in zip(answer.columns, answer.types, answer.schema, strict=True)]
    file.write(f'{{"columns":{json.dumps(columns)},"rows":[{",".join(rows)}]}}'.encode())
    return {"shown": len(rows), "total": total, "counted": counted}


def write_csv(answer: Reading, file: BinaryIO) -> Facts:
    """RFC 4180 with a header; NULL is empty, nested values are JSON, bytes hexadecimal."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(answer.columns)
    total = 0
    for batch in answer.batches:
        writer.writerows(zip(*map(_written, batch.columns), strict=True))
        total += batch.num_rows
        _check_size(file)
    text.detach()
    return {"total": total}


def write_parquet(answer: Reading, file: BinaryIO) -> Facts:
    """Columns of one name are told apart by numbers."""
    names = _distinct(answer.columns)
    schema = pa.schema([field.with_name(name)
                        for name, field in zip(names, answer.schema, strict=True)])
    total = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(answer.batches):
            writer.write_table(pa.Table.from_batches(group, answer.schema).rename_columns(names))
            total += sum(batch.num_rows for batch in group)
            _check_size(file)
    return {"total": total}


FORMS: dict[str, Callable[[Reading, BinaryIO], Facts]] = {
    "show": show, "csv": write_csv, "parquet": write_parquet}


def _check_size(file: BinaryIO) -> None:
    if file.tell() > FILE_BYTES:
        raise QueryError(f"stopped: the file would be larger than {FILE_BYTES >> 20} MB; "
                         "add a LIMIT, or choose columns")


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches together, so that row groups are of a fair size."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(one.nbytes for one in group) > GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _distinct(names: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for name in names:
        free, count = name, 1
        while free in found:
            count += 1
            free = f"{name}_{count}"
        found.append(free)
    return found


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _values(column: pa.Array) -> list:
    """A column's values; times as text, for Python has no nanoseconds and no year 10000."""
    if pa.types.is_temporal(column.type) and not pa.types.is_interval(column.type):
        column = column.cast(pa.string())
    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:
        raise QueryError(f"a column of type {column.type} cannot be shown: cast it to VARCHAR "
                         f"({error})") from error


def _cells(column: pa.Array) -> list:
    if not pa.types.is_list(column.type):
        return [_cell(value) for value in _values(column)]
    counts = pc.list_value_length(column).to_pylist()
    heads = _values(pc.list_slice(column, 0, MOST_ITEMS))
    return [None if head is None else _cut(_json(head, short=True), count > MOST_ITEMS,
                                           f"{count:,} values")
            for head, count in zip(heads, counts, strict=True)]


def _cut(text: str, more: bool, size: str) -> str:
    """A text of at most MOST_LETTERS, and how long it would be; `more`: it is already cut."""
    if more:
        text = text.removesuffix("]") + ", "
    return text if len(text) <= MOST_LETTERS and not more else f"{text[:MOST_LETTERS]}… ({size})"


def _cell(value: object) -> object:
    """A value to look at: numbers to six significant digits, what is long cut, bytes as a size."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value if abs(value) < LARGEST_INT else str(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        return float(f"{number:.6g}") if math.isfinite(number) else str(number)
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = _json(value, short=True) if isinstance(value, list | dict | tuple) else str(value)
    return _cut(text, False, f"{len(text):,} characters")


def _written(column: pa.Array) -> list:
    """A column's values for CSV."""
    if pa.types.is_nested(column.type):
        return [None if value is None else _json(value) for value in _values(column)]
    if pa.types.is_binary(column.type):
        return [None if value is None else value.hex() for value in _values(column)]
    return _values(column)


def _json(value: object, short: bool = False) -> str:
    return json.dumps(_plain(value, short), ensure_ascii=False)


def _plain(value: Any, short: bool) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(one, short) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, short) for one in value]
    if isinstance(value, bytes):
        return f"{len(value):,} bytes" if short else value.hex()
    if isinstance(value, float | Decimal):
        number = float(value)
        if not math.isfinite(number):
            return None
        return float(f"{number:.6g}") if short else number
    return value if isinstance(value, str | int | bool | None) else str(value)
