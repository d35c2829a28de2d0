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
from typing import Generic

import pyarrow as pa
import pyarrow.parquet as pq

from store.remote import AnyPlace, Place

SUMS = "SHA256SUMS"
SUFFIX = ".sha256"
FILES = ("images/*.parquet", "images/*.json", "models/*/*.parquet", "models/*/*.npz",
         "models/*/*.safetensors", "models/*/*.json", "models/*/samples/*.json",
         "models/*/patterns/*.parquet", "patterns/*.parquet")
"""What may have a checksum beside it."""

PIECE = 8 << 20
"""Bytes that are read at once, to compare a file with its checksum."""


@dataclass(frozen=True)
class Damage(Generic[AnyPlace]):
    """`file` is not as it was written; `place`, its unit or itself, is what must be made again."""

    file: AnyPlace
    place: AnyPlace
    why: str


def digest(file: Place) -> str:
    found = hashlib.sha256()
    with file.open("rb") as handle:
        while piece := handle.read(PIECE):
            found.update(piece)
    return found.hexdigest()


def line(file: Place) -> str:
    """A file's line in a list of checksums."""
    return f"{digest(file)}  {file.name}\n"


def beside(file: AnyPlace) -> AnyPlace:
    """Where the checksum of a file outside units stands."""
    return file.with_name(file.name + SUFFIX)


def read_sums(listing: Place) -> dict[str, set[str]]:
    """The checksums that a file may have, by its name; nothing where the list is unreadable."""
    sums: dict[str, set[str]] = {}
    try:
        for row in listing.read_text().splitlines():
            checksum, name = row.split("  ", 1)
            sums.setdefault(name, set()).add(checksum)
    except (OSError, ValueError):
        return {}
    return sums


def find_damage(path: AnyPlace) -> list[Damage[AnyPlace]]:
    """Read every file of a store and compare it with its checksum, in order of path."""
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        looks = [threads.submit(_in_unit, unit) for unit in path.glob("models/*/*/*/")]
        looks += [threads.submit(_in_file, f) for shape in FILES for f in path.glob(shape)]
        found: list[Damage[AnyPlace]] = [damage for look in looks for damage in look.result()]
    return sorted(found, key=lambda damage: damage.file)


def size_of(path: Place) -> int:
    """Bytes that `find_damage` would read."""
    files = [f for shape in (*FILES, "models/*/*/*/*.parquet") for f in path.glob(shape)]
    return sum(file.stat().st_size for file in files)


def is_readable(file: Place, columns: Iterable[str] = ()) -> bool:
    """A Parquet file whose footer can be read and names these columns."""
    try:
        with file.open("rb") as handle:
            schema = pq.read_metadata(handle).schema.to_arrow_schema()
    except (OSError, pa.ArrowException):
        return False
    return set(columns) <= set(schema.names)


def _in_unit(folder: AnyPlace) -> list[Damage[AnyPlace]]:
    sums = read_sums(folder / SUMS) or {file.name: set() for file in folder.glob("*.parquet")}
    return [Damage(folder / name, folder, why) for name, allowed in sums.items()
            if (why := _what_is_wrong(folder / name, allowed))]


def _in_file(file: AnyPlace) -> list[Damage[AnyPlace]]:
    why = _what_is_wrong(file, read_sums(beside(file)).get(file.name, set()))
    return [Damage(file, file, why)] if why else []


def _what_is_wrong(file: Place, allowed: set[str]) -> str:
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
