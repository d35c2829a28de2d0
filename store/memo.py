"""What was made once from a store is kept while the store stays as it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

ANSWERS, ARRAYS = 40 << 20, 212 << 20
"""Bytes that are kept of answers, and of arrays, which are large and quickly read again: enough of
them for all views of ten models of 144 heads on 10,000 images."""


class Sized(Protocol):
    """Anything that knows its bytes, as tables and arrays do."""

    @property
    def nbytes(self) -> int: ...


Kept = TypeVar("Kept", bound=Sized | None)


class Memo:
    """Keeps things by key, up to `most` bytes of them; what was used longest ago goes first."""

    def __init__(self, most: int = ANSWERS) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def keep(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What is kept under the key, or else is made now; None is kept too. Two threads may both
        make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            kept = self._kept
        made = make()
        size = 0 if made is None else made.nbytes
        with self._lock:
            if kept is self._kept and key not in kept and size <= self._most:
                kept[key], self._sizes[key] = made, size
                self._bytes += size
                while self._bytes > self._most:
                    oldest, _ = kept.popitem(last=False)
                    self._bytes -= self._sizes.pop(oldest)
        return made

    def holds(self, key: Hashable) -> bool:
        """Whether it is kept now."""
        return key in self._kept

    def clear(self) -> None:
        """Forget everything, also what is being made at this moment."""
        with self._lock:
            self._kept, self._sizes, self._bytes = OrderedDict(), {}, 0
