"""Named arrays in one file, in the safetensors format (a header in JSON, then the bytes of each).

Read with a few lines of our own, since the library reads local files only, and a store may be on
object storage. Each read opens the file anew, so that header and bytes are of the same version.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import IO, cast

import numpy as np

from store.remote import Place, Remote

KINDS = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "I16": np.int16,
         "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_}
"""Types by their names in the format; all are little-endian, as numpy's are on what we run on."""

NOTES = "__metadata__"
REQUESTS = 8
"""Parts of an array on object storage that are asked for one by one; more, and all of it is."""

LONGEST_HEADER = 100 << 20


class Arrays:
    """What an open file holds. `far`: each read is a request. Raises ValueError where it is no such
    file."""

    def __init__(self, handle: IO[bytes], far: bool = False) -> None:
        self._handle, self._far = handle, far
        self._start = 8 + int.from_bytes(handle.read(8), "little")
        if not 8 < self._start <= LONGEST_HEADER:
            raise ValueError("no header")
        self._entries = _entries(handle.read(self._start - 8))

    @property
    def notes(self) -> Mapping[str, str]:
        """Text by name."""
        return self._entries.get(NOTES, {})

    def __getitem__(self, name: str) -> np.ndarray:
        """An array, whole. Raises KeyError, ValueError."""
        return self._read(name, self.shape(name), 0)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises KeyError."""
        return tuple(self._entries[name]["shape"])

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def row(self, name: str, *place: int) -> np.ndarray:
        """The part of an array at these places along its first axes. Raises KeyError, IndexError,
        ValueError."""
        shape = self.shape(name)
        piece = int(np.ravel_multi_index(place, shape[:len(place)]))
        return self._read(name, shape[len(place):], piece)

    def rows(self, name: str, places: Sequence[int]) -> np.ndarray:
        """The parts of an array at these places along its first axis. Raises as `row`."""
        if self._far and len(places) > REQUESTS:
            return self[name][places]
        return np.stack([self.row(name, place) for place in places])

    def _read(self, name: str, shape: Sequence[int], place: int) -> np.ndarray:
        """So much of an array as has this shape, after so many pieces of that size."""
        entry = self._entries[name]
        kind, count = np.dtype(KINDS[entry["dtype"]]), math.prod(shape)
        self._handle.seek(self._start + entry["data_offsets"][0] + place * count * kind.itemsize)
        # numpy's own memory, not bytes: large arrays get large pages, and come in half the time
        found = np.empty(count, kind)
        handle = cast(io.BufferedIOBase, self._handle)
        if handle.readinto(found.view(np.uint8).data) != found.nbytes:
            raise ValueError("ends early")
        return found.reshape(shape)


@lru_cache(64)
def _entries(header: bytes) -> Mapping[str, Mapping]:
    """What a header says, made out once for each that is met."""
    return MappingProxyType(json.loads(header))


@contextmanager
def opened(file: Place) -> Iterator[Arrays | None]:
    """The arrays of a file; None where there is none that can be read."""
    try:
        handle = file.open("rb")
    except OSError:
        yield None
        return
    with handle:
        try:
            found = Arrays(handle, isinstance(file, Remote))
        except (OSError, ValueError, TypeError, AttributeError):
            found = None
        yield found
