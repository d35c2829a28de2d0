"""Memory that stays with the process, in large pages.

A sweep asks for the same tens of megabytes again and again. By its habits the allocator hands such
pieces back to the system each time and gets them anew, to be cleared page by page, which took a
quarter of the sweep's time; and in small pages the processor spends another fifth on finding them
(docs/engine.md). So what was once asked for is kept, and asked for in large pages.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
MADV_HUGEPAGE = 14  # of Linux's mman.h
RESERVE = 2 << 30
"""Bytes of addresses that are to have large pages. They take no memory until they are used."""


@lru_cache(maxsize=1)
def keep_memory() -> bool:
    """Whether this process now keeps its memory, in large pages where it can; it can on Linux with
    glibc. Once a process, before large tensors are made."""
    try:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1)):
            return False
        libc.free(libc.malloc(RESERVE))  # the heap grows by that, and stays
        start, end = _heap()
    except (OSError, AttributeError, ValueError):
        return False
    return libc.madvise(start, end - start, MADV_HUGEPAGE) == 0


def _heap() -> tuple[int, int]:
    """Where it begins and ends. ValueError if there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = (int(edge, 16) for edge in line.split()[0].split("-"))
            return start, end
    raise ValueError("no heap")
