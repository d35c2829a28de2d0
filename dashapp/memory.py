"""Memory that is given back."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
APART = 4 << 20
"""Bytes from which a piece of memory lies apart from the heap."""


def give_back() -> None:
    """From here on large arrays go back to the system when they are forgotten, where the C library
    is glibc. By its habits it would keep them in the heap after the first, below whatever small
    thing came later: the server of a large store held 110 MB of nothing (docs/adr-004-series.md).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, APART)
