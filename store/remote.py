"""A store on object storage, read as if it lay in a folder.

`Remote` has what the readers of a store ask of a `Path`, answered from one flat listing of the
whole store: a listing costs a request for every thousand files, a walk one for every folder.
"""

from __future__ import annotations

import io
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar, cast

from store.errors import StoreError
from store.memo import Memo

LIST_SECONDS = 10.0
"""How old a listing may be: every look at the store is answered from it until then."""

KEPT_BYTES = 256 << 20
"""Of what was read, kept in memory: the same ranges are read again and again."""


@dataclass(frozen=True)
class Status:
    """Of a file, what tells one version of it from the next."""

    st_size: int
    st_mtime_ns: int


class Listing:
    """Every file below `root` of an fsspec file system, by its key: the path below `root`.

    `system` lists and reads; `duckdb` is the file system that DuckDB may read them through.
    """

    def __init__(self, system: Any, root: str, url: str) -> None:
        self.system, self.root, self.url = system, root.rstrip("/"), url.rstrip("/")
        self.duckdb: Any = None
        self._found: dict[str, Mapping[str, Any]] = {}
        self._folders: set[str] = set()
        self._listed = -LIST_SECONDS
        self._lock = threading.Lock()
        self._ranges = Memo(KEPT_BYTES)

    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """What the storage says of each file, at most LIST_SECONDS old. Raises StoreError."""
        self._look()
        return self._found

    def folders(self) -> set[str]:
        """The keys of all folders that hold files, "." the store's own."""
        self._look()
        return self._folders

    def _look(self) -> None:
        with self._lock:
            if time.monotonic() - self._listed < LIST_SECONDS:
                return
            found = self._find()
            self._found = {self._key(path): said for path, said in found.items()}
            self._folders = {str(folder) for key in self._found
                             for folder in PurePosixPath(key).parents}
            self._listed = time.monotonic()

    def _find(self) -> Mapping[str, Mapping[str, Any]]:
        """Raises StoreError."""
        try:
            self.system.invalidate_cache()
            return self.system.find(self.root, detail=True)
        except Exception as error:  # what a storage raises has no common class
            said = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"the store at {self.url} cannot be listed: {said}") from error

    def _key(self, path: str) -> str:
        return path.lstrip("/").removeprefix(self.root.lstrip("/")).lstrip("/")

    def read(self, key: str, version: Status, start: int, end: int) -> bytes:
        """Bytes [start, end) of a file. Raises OSError."""
        return bytes(self._ranges.keep((key, version, start, end), lambda: memoryview(
            self._fetch(f"{self.root}/{key}", start, end))))

    def _fetch(self, path: str, start: int, end: int) -> bytes:
        try:
            return self.system.cat_file(path, start=start, end=end)
        except OSError:
            raise
        except Exception as error:  # what a storage raises has no common class
            raise OSError(f"{self.url} cannot be read: {error}") from error


@dataclass(frozen=True, order=True)
class Remote:
    """A file or folder of a store on object storage; its name is written as its URL."""

    key: str
    listing: Listing = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.listing.url}/{self.key}".rstrip("/")

    def __truediv__(self, name: str | PurePosixPath) -> Remote:
        return self._at(self._pure / name)

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def parent(self) -> Remote:
        return self._at(self._pure.parent)

    def with_name(self, name: str) -> Remote:
        return self._at(self._pure.with_name(name))

    def relative_to(self, other: Remote) -> PurePosixPath:
        return self._pure.relative_to(other._pure)

    def absolute(self) -> Remote:
        return self

    def glob(self, pattern: str) -> Iterator[Remote]:
        """The files that match, segment by segment; the folders, where it ends in a slash."""
        there = self.listing.folders() if pattern.endswith("/") else self.listing.files()
        wanted = _matches(f"{self.key}/{pattern}".strip("/"))
        return (Remote(key, self.listing) for key in sorted(there) if wanted.match(key))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return self.key in self.listing.files()

    def is_dir(self) -> bool:
        """Whether any file is below it: object storage knows no empty folders."""
        return (self.key or ".") in self.listing.folders()

    def stat(self) -> Status:
        """Raises FileNotFoundError."""
        said = self.listing.files().get(self.key)
        if said is None:
            raise FileNotFoundError(str(self))
        return Status(int(said.get("size") or 0), _moment(said))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """For reading bytes only; each read is a request. Raises OSError."""
        if mode != "rb":
            raise PermissionError(f"{self} is only read")
        return cast(IO[bytes], _Bytes(self))

    def read_text(self) -> str:
        with self.open() as handle:
            return handle.read().decode()

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.key)

    def _at(self, path: PurePosixPath) -> Remote:
        key = str(path)
        return Remote("" if key == "." else key, self.listing)


Place = Path | Remote
"""Where a store, or a file of one, may lie: readers ask of it only what both can do."""

AnyPlace = TypeVar("AnyPlace", Path, Remote, Place)


class _Bytes(io.RawIOBase):
    """A file for reading; every read asks the storage for its range."""

    def __init__(self, file: Remote) -> None:
        self._file, self._version, self._place = file, file.stat(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._version.st_size}
        self._place = max(0, start[whence] + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        last = self._version.st_size
        end = last if size is None or size < 0 else min(last, self._place + size)
        if end <= self._place:
            return b""
        found = self._file.listing.read(self._file.key, self._version, self._place, end)
        self._place += len(found)
        return found

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[:len(found)] = found
        return len(found)


@lru_cache
def _matches(pattern: str) -> re.Pattern[str]:
    """A pattern over whole keys, in which * stays within its segment."""
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))) + r"\Z")


def _moment(said: Mapping[str, Any]) -> int:
    """When a file was written, in ns; else a number that is another for another content."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = said.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, int | float):
            return int(value * 1e9)
    return zlib.crc32(repr(sorted(said.items(), key=str)).encode()) * 10 ** 9
