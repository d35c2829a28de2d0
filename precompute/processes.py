"""Workers on this machine: a process each, one a core or one a GPU.

They are forked from a server that has torch imported and nothing else going on, take a task at a
time from a pipe of their own, and load the model themselves. A pipe that ends is a worker that
died; a worker whose parent dies ends too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from precompute.progress import Progress
from precompute.shards import DEATHS, Alone, Crew, Terms, given_up
from precompute.workers import Task, do

DONE = "done"
"""What a worker says when a task is finished; before that, how many images each batch had."""


@contextlib.contextmanager
def hire(terms: Terms) -> Iterator[Crew]:
    """So many processes, started when there is something to do; one worker is this process."""
    if terms.count == 1:
        yield Alone()
        return
    crew = Processes(terms)
    try:
        yield crew
    finally:
        crew.dismiss()


class Worker:
    """One process, its pipe, and what it has in hand."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.task: Task | None = None
        self.told = 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, number), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        """A worker that is dead already is noticed when its pipe is read."""
        self.task, self.told = task, 0
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Processes:
    """A crew of processes that stay, with the model that they have loaded, until dismissed."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.workers: list[Worker] = []

    def run(self, tasks: Sequence[Task], progress: Progress) -> None:
        if len(tasks) < 2:
            Alone().run(tasks, progress)
            return
        try:
            self._share_out(tasks, progress)
        except BaseException:
            self.dismiss()  # whoever is still at work would answer later, unasked
            raise

    def _share_out(self, tasks: Sequence[Task], progress: Progress) -> None:
        while len(self.workers) < min(self.terms.count, len(tasks)):
            self.workers.append(Worker(len(self.workers)))
        waiting, deaths = deque(tasks), Counter[Task]()
        while waiting or any(worker.task for worker in self.workers):
            for worker in self.workers:
                if waiting and worker.task is None:
                    worker.give(waiting.popleft())
            ready = connection.wait([w.pipe for w in self.workers if w.task])
            for worker in [w for w in self.workers if w.pipe in ready]:
                lost = self._hear(worker, progress)
                if lost is not None:
                    deaths[lost] += 1
                    if deaths[lost] >= DEATHS:
                        raise given_up(lost, DEATHS)
                    waiting.append(lost)

    def _hear(self, worker: Worker, progress: Progress) -> Task | None:
        """Take what a worker says; the task it had, if it died over it."""
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(worker, progress)
        if isinstance(said, BaseException):
            raise said
        if said == DONE:
            worker.task = None
        else:
            worker.told += said
            progress.advance(said)
        return None

    def _replace(self, worker: Worker, progress: Progress) -> Task | None:
        worker.end()
        progress.advance(-worker.told)
        self.workers[self.workers.index(worker)] = Worker(worker.number)
        return worker.task

    def dismiss(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers.clear()


def _serve(pipe: Connection, number: int) -> None:
    """A worker's life: tasks until the pipe ends. Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            do(task, pipe.send)
            pipe.send(DONE)
        except Exception as error:
            error.add_note(traceback.format_exc())
            pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """The error itself if it survives the journey, else what it says."""
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return error
    return RuntimeError("".join(traceback.format_exception(error)))


def _end_with_parent() -> None:
    """A worker without a parent would go on to the end of its unit, for hours maybe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
