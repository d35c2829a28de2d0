"""Object storage through fsspec: where a URL leads, and what DuckDB may do there.

The only module that needs fsspec; `store.places` loads it when it meets a URL.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from store.errors import StoreError
from store.remote import Listing, Remote


def connect(url: str) -> Remote:
    """The store at a URL; nothing is asked of the storage yet. Raises StoreError for a protocol
    that fsspec does not know, or whose package is not there."""
    try:
        system, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StoreError(f"no store at {url}: {error}") from error
    listing = Listing(system, root, url)
    listing.duckdb = ReadOnly(listing)
    return Remote("", listing)


class ReadOnly(fsspec.AbstractFileSystem):
    """The files of a listing for DuckDB, which would write wherever it may read: here it cannot.

    Sizes and times come from the listing and a name is never a pattern, so that a query costs the
    storage nothing but the ranges of bytes that it reads.
    """

    cachable = False

    def __init__(self, listing: Listing) -> None:
        super().__init__()
        self.listing = listing
        self.protocol = listing.url.partition("://")[0]

    def unstrip_protocol(self, name: str) -> str:
        return name

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path]

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return self._file(path).open(mode)

    def size(self, path: str) -> int:
        return self._file(path).stat().st_size

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self._file(path).stat().st_mtime_ns / 1e9, UTC)

    def exists(self, path: str, **_: Any) -> bool:
        return self._file(path).is_file()

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def _file(self, path: str) -> Remote:
        key = path.removeprefix(self.listing.url)
        if key == path:
            raise PermissionError(f"{path} is not in the store at {self.listing.url}")
        return Remote(key.lstrip("/"), self.listing)
