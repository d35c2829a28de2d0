"""Files that are made from others say from what, so that they are made again when that changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store.writer import StoreWriter

MADE_FROM = b"made_from"
"""In a derived file: a hash of what it was made from."""


def digest(parts: Iterable[str]) -> bytes:
    """A short name for all of these, in this order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest().encode()


def read_note(file: Path, key: bytes = MADE_FROM) -> bytes | None:
    """What a Parquet file says of itself under this key; None where there is no such file."""
    if not file.exists():
        return None
    return (pq.read_schema(file).metadata or {}).get(key, b"")


def write_made(writer: StoreWriter, file: Path, rows: pa.Table, made_from: bytes) -> None:
    """Put a derived table in its place, with what it was made from."""
    writer.write_file(file.relative_to(writer.path),
                      rows.replace_schema_metadata({MADE_FROM: made_from}))
