"""The process behind `store.doors`: a Door that answers one query after the other.

    python -m store.door_process DESCRIPTOR STORE SECONDS MEMORY

Over the socket comes a file that holds the query; the answer is written into that file, and a line
of JSON says how it went. The kernel bounds what DuckDB does not: memory, the size of a file, and
time, by an alarm that ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import BinaryIO

from store.answers import FILE_BYTES, FORMS
from store.errors import AtlasError
from store.sandbox import Door

IDLE_SECONDS = 600
SPARE_SECONDS = 2.0
BATCH_ROWS = 2_048


def main(descriptor: int, path: str, seconds: float, memory: int) -> None:
    _bound(memory)
    connection = socket.socket(fileno=descriptor)
    connection.settimeout(IDLE_SECONDS)
    door: Door | None = None
    while True:
        try:
            sign, files, _, _ = socket.recv_fds(connection, 1, 1)
        except TimeoutError:
            return
        if not sign or not files:
            return
        with os.fdopen(files[0], "r+b") as file:
            try:
                door = door or Door(path, seconds, f"{memory >> 20}MB", threads=1)
                signal.setitimer(signal.ITIMER_REAL, seconds + SPARE_SECONDS)
                told = _answer(door, file)
            except AtlasError as error:
                told = {"error": str(error)}
            except MemoryError:
                told = {"error": f"stopped: the query needed more than {memory >> 20} MB of memory"}
            except Exception as error:
                told = {"error": f"the query failed in a way that nobody foresaw "
                                 f"({type(error).__name__})"}
            signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(json.dumps(told).encode() + b"\n")


def _answer(door: Door, file: BinaryIO) -> dict:
    asked = json.loads(file.read())
    file.seek(0)
    file.truncate()
    started = time.monotonic()
    with door.reading(asked["sql"], BATCH_ROWS) as answer:
        facts = FORMS[asked["form"]](answer, file)
    file.flush()
    return {**facts, "seconds": time.monotonic() - started}


def _bound(memory: int) -> None:
    """Bounds of this process, where the system has them; it yields to the page's own queries."""
    for limit, most in ((resource.RLIMIT_DATA, 2 * memory + (1 << 30)), (resource.RLIMIT_CORE, 0),
                        (resource.RLIMIT_FSIZE, 2 * FILE_BYTES)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))
    with contextlib.suppress(OSError):
        os.nice(10)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
