"""Workers on a Ray cluster, which may be many machines that see the same store and images."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import RayError, RayTaskError

from precompute.progress import Progress
from precompute.shards import DEATHS, Crew, Terms, given_up
from precompute.workers import Task, do
from store.errors import AtlasError

AHEAD = 4
"""Tasks given out at once for each worker: Ray places them, and none waits for word from here."""


@contextlib.contextmanager
def hire(terms: Terms) -> Iterator[Crew]:
    """The cluster at the address, or one on this machine with so many workers."""
    try:
        ray.init(address=terms.address, num_cpus=None if terms.address else terms.count,
                 include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise AtlasError(f"no Ray cluster at {terms.address or 'this machine'}: {error}") from error
    try:
        yield Cluster(terms)
    finally:
        ray.shutdown()


class Cluster:
    """A crew of Ray tasks, one core or one GPU each."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        gpus = 0 if terms.device == "cpu" else 1
        self.remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=DEATHS - 1)(_do)

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        waiting = list(reversed(tasks))
        running: dict[ray.ObjectRef, Task] = {}
        ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        try:
            while waiting or running:
                while waiting and len(running) < ahead:
                    task = waiting.pop()
                    running[self.remote.remote(task)] = task
                (done, *_), _ = ray.wait(list(running))
                progress.advance(_result(done, running.pop(done)))
        finally:
            for unfinished in running:
                ray.cancel(unfinished, force=True)


def _do(task: Task) -> int:
    return do(task)


def _result(done: ray.ObjectRef, task: Task) -> int:
    """The images of a finished task. Raises what it raised, as itself."""
    try:
        return ray.get(done)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise given_up(task, DEATHS) from error
