"""Tasks shared out among workers: in this process, in others on this machine, or on a Ray cluster.

A unit of work is an idempotent file, so a worker that is lost costs what it had in hand: the task
is given to another. Whoever shares them out, the tasks are the same (`precompute.workers.do`), and
so are the rows.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from precompute.progress import Progress
from precompute.workers import Task, do
from store.errors import AtlasError

DEATHS = 3
"""Workers that a task may cost before it is given up."""


@runtime_checkable
class Crew(Protocol):
    """Workers that do tasks."""

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Do them all. Raises what a task raises, and AtlasError for one that keeps killing its
        workers; what is done by then stays done."""


@dataclass(frozen=True)
class Terms:
    """Who is to work: `engine` is one of ENGINES, `workers` how many (None: one a core or a GPU),
    `address` a Ray cluster's (None: one on this machine)."""

    engine: str = "local"
    workers: int | None = None
    device: str = "cpu"
    address: str | None = None

    @property
    def count(self) -> int:
        """How many workers that makes on this machine."""
        return self.workers or (cores() if self.device == "cpu" else torch.cuda.device_count())


class Alone:
    """This process, one task after the other."""

    def run(self, tasks: Iterable[Task], progress: Progress) -> None:
        for task in tasks:
            do(task, progress.advance)


ENGINES = {"local": "precompute.processes", "ray": "precompute.cluster"}
"""Modules with `hire(terms)`: a Crew for as long as one is inside."""


def hire(terms: Terms) -> AbstractContextManager[Crew]:
    """A crew on these terms. Raises AtlasError where the engine is not installed."""
    try:
        module = importlib.import_module(ENGINES[terms.engine])
    except ModuleNotFoundError as error:
        if error.name != terms.engine:
            raise
        raise AtlasError(f"--engine {terms.engine} needs {error.name}: "
                         f"pip install 'headatlas[{terms.engine}]'") from error
    return module.hire(terms)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def given_up(task: Task, deaths: int) -> AtlasError:
    """What to say of a task whose workers keep dying."""
    return AtlasError(
        f"{task.model}, {task.stage} {task.unit}: {deaths} workers died over it, most likely for "
        "lack of memory; try fewer --workers or a smaller --batch-size (what is done stays done)")
