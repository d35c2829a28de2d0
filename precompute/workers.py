"""Several images at once: one thread a core, each with a model of its own and unthreaded kernels.

Splitting every small matrix product over the cores costs more than it saves, and collapses where
something else runs on the machine; whole batches side by side do not. The models share their
weights, only their hooks are their own.
"""

from __future__ import annotations

import copy
import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from precompute.models import Vit

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_threads(device: str) -> int:
    """One for each core this process may use; one in all where a GPU does the work."""
    return len(os.sched_getaffinity(0)) if device == "cpu" else 1


def in_order(work: Callable[[Vit, Item], Result], items: Iterable[Item], vit: Vit,
             threads: int) -> Iterator[Result]:
    """`work(vit, item)` for every item, `threads` at a time, results in the order of the items.

    Only a few items are taken ahead, so memory does not grow with their number. The caller has set
    torch to one thread.
    """
    twins: queue.SimpleQueue[Vit] = queue.SimpleQueue()
    for _ in range(threads):
        twins.put(twin(vit))

    def on_a_twin(item: Item) -> Result:
        mine = twins.get()
        try:
            return work(mine, item)
        finally:
            twins.put(mine)

    executor = ThreadPoolExecutor(threads)
    try:
        running: deque[Future[Result]] = deque()
        for item in items:
            running.append(executor.submit(on_a_twin, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def twin(vit: Vit) -> Vit:
    """The same model with hooks of its own, on the same weights."""
    shared = [*vit.model.parameters(), *vit.model.buffers()]
    return copy.deepcopy(vit, {id(tensor): tensor for tensor in shared})
