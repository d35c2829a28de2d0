"""How far the work is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

EVERY = 10.0
"""Seconds between plain lines."""


class Progress:
    """Counts images (or `units`) of one task. Use as a context manager; `advance` after each batch.
    """

    def __init__(self, task: str, total: int, units: str = "images") -> None:
        self.task, self.total, self.units, self.done = task, total, units, 0
        self._started = self._said = time.monotonic()
        self._bar = tqdm(total=total, desc=task, unit=units.removesuffix("s"), leave=True) \
            if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.done:
            seconds = time.monotonic() - self._started
            say(f"{self.task}: {self.done} of {self.total} {self.units} in {seconds:.1f} s")

    def advance(self, count: int) -> None:
        """So many more are done; fewer, where a worker was lost with what it had done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.done and time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            left = (self._said - self._started) / self.done * (self.total - self.done)
            say(f"{self.task}: {self.done} of {self.total} {self.units}, about {left:.0f} s left")


def say(line: str) -> None:
    """One plain line about the work, on stderr, without tearing a bar."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
