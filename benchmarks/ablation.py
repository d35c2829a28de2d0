"""How much faster the sweep is than a hooked forward pass per head (N1), in the same run.

    python -m benchmarks.ablation [--model SPEC] [--image-size N] [--batch 4 --batch 8] [--rounds 3]

N1 is given its better way: one process with torch's own threads over all cores, or one unthreaded
process a core. The sweep is run as `precompute` runs it, one unthreaded process a core. The three
take turns, round by round, so that a noisy machine disturbs them alike; figures are medians over
rounds. Every pass of N1 costs the same, so PASSES of them stand for all; the sweep runs whole.

    N1 threads   seconds an image of N1 on torch's threads; N1 cores: on a process a core
    sweep        seconds an image of the sweep, its clean pass included
    ratio        N1 threads / sweep, the obvious way against ours; strict: the better N1 / sweep
    of peak      arithmetic of the sweep a second, as a share of what torch's float32 products reach
                 on all cores in the same run (more than all of it where tiles multiply)
    floor        the strict ratio if the sweep's arithmetic ran at that peak and all else were free
    statistics   share of attention statistics in the whole
    difference   largest relative difference of a pruned embedding from N1's

Without --model: ViT-S/14 (the real one if HEADATLAS_REAL has it, else random weights), ViT-Ti/16
and Swin-T with random weights, and a bundled ViT.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from precompute import kernels, models
from precompute.ablation import chunks, one_each, zero
from precompute.anatomy import Anatomy, Model
from precompute.clean import CleanPass, clean_pass
from precompute.families import dissect
from precompute.memory import keep_memory
from precompute.strength import STRENGTH, look
from precompute.sweep import ROW_TOKENS, Engine, Hooks, embed, make_engine

REAL = Path(os.environ.get("HEADATLAS_REAL", "../shared/real")) / "vits14_imgfocus.safetensors"
PASSES = 6
PEAK_SIDE = 1536
HEADER = (f"{'model':<30}{'batch':>6}{'engine':>7}{'N1 threads':>11}{'N1 cores':>9}{'sweep':>8}"
          f"{'ratio':>7}{'strict':>7}{'of peak':>8}{'floor':>6}{'statistics':>11}"
          f"{'difference':>11}")


@dataclass(frozen=True)
class Case:
    """A model, and how many images at once. `spec` is a SPEC, or a bare timm name for random
    weights (`random` says so)."""

    spec: str
    size: int | None
    batch: int
    random: bool = False

    def load(self) -> tuple[Model, Anatomy, torch.Tensor]:
        """The model, its anatomy and noise images, the same in every process."""
        torch.manual_seed(0)
        if self.random:
            model = timm.create_model(self.spec).eval().requires_grad_(False)
            side = self.size or 224
            anatomy = dissect(model, self.spec, (3, side, side))
        else:
            vit = models.load(self.spec, (self.size, self.size) if self.size else None)
            model, anatomy = vit.model, vit.anatomy
        channels = 1 if self.spec.startswith("zoo:") else 3
        return model, anatomy, torch.randn(self.batch, channels, *anatomy.image)


class Bench:
    """What one process can be asked to time, on one case. On several threads it is a process as
    people have it; on one it keeps its memory, as workers of `precompute` do."""

    def __init__(self, case: Case, threads: int) -> None:
        torch.set_num_threads(threads)
        if threads == 1:
            keep_memory()
        self.model, self.anatomy, self.images = case.load()
        self.name = "fast" if self.anatomy.plain else "tail"
        self.hooks = Hooks(self.model, self.anatomy)
        self.clean = clean_pass(self.model, self.anatomy, self.images)
        self.square = torch.randn(PEAK_SIDE, PEAK_SIDE)

    @cached_property
    def engine(self) -> Engine:
        return make_engine(self.name, self.model, self.anatomy)

    def n1(self) -> float:
        """Seconds for a hooked pass per head, from PASSES of them."""
        heads = self.clean.calls[0].heads
        variant = one_each(heads, zero(heads), self.anatomy.layers[0], range(1))
        seconds = _timed(lambda: [self._embedded(self.hooks.carry(self.clean, 0, variant))
                                  for _ in range(PASSES)])
        return seconds / PASSES * sum(self.anatomy.heads)

    def sweep(self) -> float:
        """Seconds for every head, the clean pass included."""
        return _timed(lambda: self._swept(clean_pass(self.model, self.anatomy, self.images)))

    def statistics(self) -> float:
        """Seconds that the attention statistics of a clean pass take."""
        def measured(layer: int, attention: torch.Tensor) -> None:
            looking = look(attention, self.anatomy.layers[layer].geometry)
            for measure in STRENGTH.values():
                measure(looking)

        def watch(layer: int, attention: torch.Tensor) -> None:
            taken[0] += _timed(lambda: measured(layer, attention))

        taken = [0.0]
        clean_pass(self.model, self.anatomy, self.images, watch)
        return taken[0]

    def peak(self) -> float:
        """Floating point operations a second of a large matrix product."""
        return 2 * PEAK_SIDE ** 3 / _timed(lambda: self.square @ self.square)

    def plain(self) -> float:
        """1 where blocks are taken apart, 0 where the model's own run."""
        return float(self.anatomy.plain)

    def operations(self) -> float:
        """Floating point operations of the sweep. torch counts its own products alone, so the same
        engine is counted on those."""
        with mock.patch.object(kernels, "MAKERS", {"plain": kernels.MAKERS["plain"]}), \
                FlopCounterMode(display=False) as counter:
            self._swept(self.clean, make_engine(self.name, self.model, self.anatomy))
        return float(counter.get_total_flops())

    def difference(self) -> float:
        """Largest relative difference from N1, over a head of every layer."""
        worst = 0.0
        for layer, call in enumerate(self.clean.calls):
            head = layer % self.anatomy.heads[layer]
            variant = one_each(call.heads, zero(call.heads), self.anatomy.layers[layer],
                               range(head, head + 1))
            found, wanted = (self._embedded(engine.carry(self.clean, layer, variant))
                             for engine in (self.engine, self.hooks))
            norm = torch.linalg.vector_norm
            worst = max(worst, (norm(found - wanted, dim=-1) / norm(wanted, dim=-1)).max().item())
        return worst

    def _swept(self, clean: CleanPass, engine: object = None) -> None:
        for layer, call in enumerate(clean.calls):
            for chosen in chunks(self.anatomy, layer, call.heads, ROW_TOKENS["cpu"]):
                variants = one_each(call.heads, zero(call.heads), self.anatomy.layers[layer],
                                    chosen)
                self._embedded((engine or self.engine).carry(clean, layer, variants))

    def _embedded(self, carried: object) -> torch.Tensor:
        return embed(self.model, carried.features.flatten(0, 1))


class Process:
    """A Bench in a process of its own, asked by name."""

    def __init__(self, case: Case, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(case, threads, theirs), daemon=True)
        self._process.start()
        self._pipe.recv()

    def ask(self, what: str) -> None:
        self._pipe.send(what)

    def answer(self) -> float:
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.send("")
        self._process.join()


def _answer(case: Case, threads: int, pipe: Connection) -> None:
    bench = Bench(case, threads)
    pipe.send("ready")
    while what := pipe.recv():
        with torch.no_grad():
            pipe.send(getattr(bench, what)())


def line(case: Case, rounds: int) -> str:
    """Measure one case."""
    cores = len(os.sched_getaffinity(0))
    threaded, each = Process(case, cores), [Process(case, 1) for _ in range(cores)]
    times: dict[str, list[float]] = {"threads": [], "cores": [], "sweep": [], "peak": []}
    try:
        _together(each, "n1")  # to warm up
        for _ in range(rounds):
            times["threads"].append(_together([threaded], "n1")[0] / case.batch)
            times["sweep"].append(_per_image(_together(each, "sweep"), case.batch))
            times["cores"].append(_per_image(_together(each, "n1"), case.batch))
            times["peak"].append(sum(_together(each, "peak")))
        plain, taken, work, off = (
            _together(each[:1], what)[0]
            for what in ("plain", "statistics", "operations", "difference"))
    finally:
        for process in (threaded, *each):
            process.stop()
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return _line(case, "fast" if plain else "tail", medians, taken / case.batch,
                 work / case.batch, off)


def _line(case: Case, engine: str, m: dict[str, float], taken: float, work: float, off: float,
          ) -> str:
    name = case.spec.split("@")[0] + (f" {case.size}" if case.size else "")
    ratio, strict = m["threads"] / m["sweep"], min(m["threads"], m["cores"]) / m["sweep"]
    cores = len(os.sched_getaffinity(0))
    floor = min(m["threads"], m["cores"]) * m["peak"] / work
    return (f"{name:<30}{case.batch:>6}{engine:>7}{m['threads']:>11.3f}{m['cores']:>9.3f}"
            f"{m['sweep']:>8.3f}{ratio:>7.2f}{strict:>7.2f}"
            f"{work / m['sweep'] / m['peak']:>8.0%}{floor:>6.2f}"
            f"{taken / cores / m['sweep']:>11.1%}{off:>11.1e}")


def _together(processes: list[Process], what: str) -> list[float]:
    for process in processes:
        process.ask(what)
    return [process.answer() for process in processes]


def _per_image(seconds: list[float], batch: int) -> float:
    """Seconds an image where every process has done a batch at the same time."""
    return max(seconds) / (batch * len(seconds))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cases(args: argparse.Namespace) -> list[Case]:
    batches = args.batch or [4, 8]
    if args.model:
        return [Case(spec, args.image_size, b) for spec in args.model for b in batches]
    real = (f"vit_small_patch14_dinov2@{REAL}", 224, False) if REAL.exists() \
        else ("vit_small_patch16_224", 224, True)
    asked = [real, ("vit_tiny_patch16_224", 224, True), ("swin_tiny_patch4_window7_224", 224, True)]
    return [Case(spec, size, b, random) for spec, size, random in asked for b in batches] \
        + [Case("zoo:fashion_cls7", None, 32)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch", type=int, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, float32; seconds an "
          "image; see the head of this file for the columns")
    print(HEADER)
    for case in _cases(args):
        print(line(case, args.rounds), flush=True)


if __name__ == "__main__":
    main()
