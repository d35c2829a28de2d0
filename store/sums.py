"""Checksums of everything in a store, and what no longer agrees with them.

A unit holds SHA256SUMS, which `sha256sum -c` understands; any other file has one beside it. That
file is written before its own, and while a file is being replaced it names the old and the new, so
at no moment does a sound store look damaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUMS = "SHA256SUMS"
SUFFIX = ".sha256"
FILES = ("images/*.parquet", "images/*.json", "models/*/*.parquet", "models/*/*.npz",
         "models/*/*.json", "models/*/samples/*.json", "models/*/patterns/*.parquet",
         "patterns/*.parquet")
"""What may have a checksum beside it."""


@dataclass(frozen=True)
class Damage:
    """`file` is not as it was written; `place`, its unit or itself, is what must be made again."""

    file: Path
    place: Path
    why: str


def digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def line(file: Path) -> str:
    """A file's line in a list of checksums."""
    return f"{digest(file)}  {file.name}\n"


def beside(file: Path) -> Path:
    """Where the checksum of a file outside units stands."""
    return file.with_name(file.name + SUFFIX)


def read_sums(listing: Path) -> dict[str, set[str]]:
    """The checksums that a file may have, by its name; nothing where the list is unreadable."""
    sums: dict[str, set[str]] = {}
    try:
        for row in listing.read_text().splitlines():
            checksum, name = row.split("  ", 1)
            sums.setdefault(name, set()).add(checksum)
    except (OSError, ValueError):
        return {}
    return sums


def find_damage(path: Path) -> list[Damage]:
    """Read every file of a store and compare it with its checksum, in order of path."""
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        units = threads.map(_in_unit, path.glob("models/*/*/*/"))
        files = threads.map(_in_file, (f for shape in FILES for f in path.glob(shape)))
        found = [damage for several in (*units, *files) for damage in several]
    return sorted(found, key=lambda damage: damage.file)


def size_of(path: Path) -> int:
    """Bytes that `find_damage` would read."""
    files = [f for shape in (*FILES, "models/*/*/*/*.parquet") for f in path.glob(shape)]
    return sum(file.stat().st_size for file in files)


def is_readable(file: Path, columns: Iterable[str] = ()) -> bool:
    """A Parquet file whose footer can be read and names these columns."""
    try:
        schema = pq.read_metadata(file).schema.to_arrow_schema()
    except (OSError, pa.ArrowException):
        return False
    return set(columns) <= set(schema.names)


def _in_unit(folder: Path) -> list[Damage]:
    sums = read_sums(folder / SUMS) or {file.name: set() for file in folder.glob("*.parquet")}
    return [Damage(folder / name, folder, why) for name, allowed in sums.items()
            if (why := _what_is_wrong(folder / name, allowed))]


def _in_file(file: Path) -> list[Damage]:
    why = _what_is_wrong(file, read_sums(beside(file)).get(file.name, set()))
    return [Damage(file, file, why)] if why else []


def _what_is_wrong(file: Path, allowed: set[str]) -> str:
    """Nothing, or what. A file whose checksum is lost is trusted if it can be read at all."""
    try:
        if allowed and digest(file) not in allowed:
            return "is not as it was written"
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not allowed and file.suffix == ".parquet" and not is_readable(file):
        return "is no Parquet file"
    return ""
