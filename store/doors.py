"""The SQL door for many people: every query in a process beside the server's.

DuckDB does not stop all that is asked of it: a long `repeat`, a deep nest of brackets for its
parser, `sleep_ms` outlast its time limit, take memory that it does not count, or could end the
process. So a query runs in a process that can be killed, at most `most` at a time.

A query is cancelled through a file in a folder that all workers of a server share, for the request
to cancel may reach another worker than the one that waits for the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from store import places
from store.errors import QueryError, StoreError
from store.remote import Place
from store.statements import MOST_CHARACTERS

LOOK_SECONDS = 0.05
GRACE_SECONDS = 1.0
START_SECONDS = 30.0
OLD_SECONDS = 3600.0
_TICKET = re.compile(r"[0-9a-f]{32}")


class BusyError(QueryError):
    """As many queries are running as may; later there is room."""


@dataclass(frozen=True)
class Answer:
    """An answer in a file, at its start; `facts` as `store.answers` tells them, and `seconds`."""

    file: IO[bytes]
    facts: dict[str, Any]


class Doors:
    """Answers SQL over a store, each query within `seconds` and `memory` bytes. Safe to share
    between threads; the first query starts a process."""

    def __init__(self, path: str | Place, seconds: float = 60, memory: int = 1 << 30, most: int = 2,
                 folder: Path | None = None) -> None:
        self._seconds, self._memory, self._most = seconds, memory, most
        store = str(places.at(path).absolute())
        self._command = (store, f"{seconds:g}", str(memory))
        self._tickets = Tickets(folder or _shared_folder(store))
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._running = 0
        self._finalizer = weakref.finalize(self, _end_all, self._idle)

    def ask(self, sql: str, form: str = "show", ticket: str = "") -> Answer:
        """The answer in one of `store.answers.FORMS`; with a ticket it can be cancelled. Raises
        QueryError, BusyError, or StoreError."""
        if len(sql) > MOST_CHARACTERS:
            raise QueryError(f"the statement has {len(sql):,} characters; at most "
                             f"{MOST_CHARACTERS:,} are read")
        with self._lock:
            if self._running >= self._most:
                raise BusyError("two queries are running; try again in a moment"
                                if self._most == 2 else
                                f"{self._most} queries are running; try again in a moment")
            self._running += 1
            process = self._idle.pop() if self._idle else None
        try:
            if process is not None and not process.lives:
                process.end()
                process = None
            process = process or _Process(self._command)
            answer = self._wait(process, sql, form, ticket)
            with self._lock:
                self._idle.append(process)
        except BaseException:
            if process is not None:
                process.end()
            raise
        finally:
            self._tickets.forget(ticket)
            with self._lock:
                self._running -= 1
        if "error" in answer.facts:
            answer.file.close()
            raise QueryError(answer.facts["error"])
        return answer

    def cancel(self, ticket: str) -> None:
        """Stop the query with this ticket, in whichever process it runs."""
        self._tickets.cancel(ticket)

    def _wait(self, process: _Process, sql: str, form: str, ticket: str) -> Answer:
        started, spare = time.monotonic(), GRACE_SECONDS + START_SECONDS * process.is_new
        file = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller
        try:
            file.write(json.dumps({"sql": sql, "form": form}).encode())
            file.seek(0)
            told = process.ask(file, lambda: self._why_stop(started, spare, ticket))
            file.seek(0)
            return Answer(file, told)
        except BaseException:
            file.close()
            raise

    def _why_stop(self, started: float, spare: float, ticket: str) -> str:
        """Why a query that is running must be stopped; empty if it need not."""
        if self._tickets.cancelled(ticket):
            return f"cancelled after {time.monotonic() - started:.1f} s"
        if time.monotonic() - started > self._seconds + spare:
            return f"stopped: the query ran longer than {self._seconds:g} s"
        return ""

    def close(self) -> None:
        """End the processes that wait for a query."""
        with self._lock:
            _end_all(self._idle)


class _Process:
    """One process of `store.door_process` and the socket to it. It gets nothing of this process's
    environment, unless its store is on object storage, which needs to be told who asks."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._seconds = command[1]
        around = dict(os.environ) if places.is_url(command[0]) else {}
        packages = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "store.door_process", str(theirs.fileno()), *command],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, cwd="/", env={
                    **around, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1",
                    "ARROW_DEFAULT_MEMORY_POOL": "system", "LC_ALL": "C.UTF-8"})
        ours.settimeout(LOOK_SECONDS)
        self._socket = ours
        self.is_new = True

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, file: IO[bytes], why_stop: Callable[[], str]) -> dict:
        """What the process says of the query in the file; QueryError if it must be stopped."""
        told = b""
        try:
            socket.send_fds(self._socket, [b"?"], [file.fileno()])
            while not told.endswith(b"\n"):
                if why := why_stop():
                    raise QueryError(why)
                with contextlib.suppress(TimeoutError):
                    part = self._socket.recv(65_536)
                    if not part:
                        raise ConnectionResetError
                    told += part
        except OSError:
            raise QueryError(self._why_it_ended()) from None
        self.is_new = False
        return json.loads(told)

    def _why_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(2) == -signal.SIGALRM:
                return f"stopped: the query ran longer than {self._seconds} s"
        return ("stopped: the query took too much memory, or more than its process could bear; "
                "nothing else was hurt")

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


class Tickets:
    """The queries to cancel: a file each, in a folder that only this user can enter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def cancel(self, ticket: str) -> None:
        """Raises StoreError where the folder belongs to somebody else."""
        if not _TICKET.fullmatch(ticket):
            return
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(0o700)
        if not self._is_ours():
            raise StoreError(f"{self._folder} is not a folder that this user alone can enter: "
                             "nothing can be cancelled")
        self._sweep()
        (self._folder / ticket).touch()

    def cancelled(self, ticket: str) -> bool:
        return bool(ticket) and (self._folder / ticket).exists() and self._is_ours()

    def forget(self, ticket: str) -> None:
        if _TICKET.fullmatch(ticket) and self._is_ours():
            (self._folder / ticket).unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        try:
            status = self._folder.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() \
            and not status.st_mode & 0o077

    def _sweep(self) -> None:
        """Take away what was cancelled too late to be noticed."""
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > OLD_SECONDS:
                    file.unlink()


def _shared_folder(store: str) -> Path:
    name = f"{os.getuid()} {store}"
    return Path(tempfile.gettempdir()) / f"headatlas-{blake2b(name.encode()).hexdigest()[:16]}"


def _end_all(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
