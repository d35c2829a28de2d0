"""How much faster the sweep is than a hooked forward pass per head (N1), in the same run.

    python -m benchmarks.ablation [--model SPEC] [--image-size N] [--batch 4] [--rounds 3]

Rounds are interleaved, so that a noisy machine disturbs both alike; the figure to read is the
median ratio. Each line also says how far the two embeddings are apart, and what share of the
sweep the attention statistics take. Without --model: the bundled ViTs, and the real ViT-S/14 if
HEADATLAS_REAL (default ../shared/real) has it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from precompute import models, zoo
from precompute.ablation import zero
from precompute.clean import CleanPass, clean_pass
from precompute.models import Vit
from precompute.readout import embeddings
from precompute.strength import STRENGTH, look
from precompute.sweep import ENGINES, choose_engine, hooks_engine

REAL = Path(os.environ.get("HEADATLAS_REAL", "../shared/real")) / "vits14_imgfocus.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch", type=int, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in precompute.workers: whole batches side by side, one a core
    print(f"{torch.get_num_threads()} thread, torch {torch.__version__}; ratio = N1 / sweep")
    print(f"{'model':<34}{'batch':>6}{'N1 s/image':>12}{'sweep':>9}{'ratio':>8}"
          f"{'worst diff':>12}{'statistics':>12}")
    for spec, size in _asked(args):
        vit = models.load(spec, size)
        for batch in args.batch or [4]:
            print(_line(vit, batch, args.rounds), flush=True)


def _asked(args: argparse.Namespace) -> list[tuple[str, tuple[int, int] | None]]:
    size = (args.image_size, args.image_size) if args.image_size else None
    if args.model:
        return [(spec, size) for spec in args.model]
    found: list[tuple[str, tuple[int, int] | None]] = [(f"zoo:{n}", None) for n in zoo.names()]
    if REAL.exists():
        found += [(f"vit_small_patch14_dinov2@{REAL}", (side, side)) for side in (112, 224)]
    return found


def _line(vit: Vit, batch: int, rounds: int) -> str:
    channels = 1 if vit.mode == "L" else 3
    images = torch.randn(batch, channels, *vit.anatomy.image)
    clean = clean_pass(vit.model, vit.anatomy, images)
    engine = ENGINES[choose_engine(vit.model, vit.anatomy, images, clean)]
    times: dict[str, list[float]] = {"N1": [], "sweep": [], "plain": [], "watched": []}
    for _ in range(rounds):
        times["plain"].append(_timed(lambda: clean_pass(vit.model, vit.anatomy, images)))
        times["watched"].append(_timed(lambda: _watched(vit, images)))
        times["sweep"].append(_timed(lambda: _run(vit, engine, images, clean)))
        times["N1"].append(_timed(lambda: _run(vit, hooks_engine, images, clean)))
    ratio = statistics.median(slow / fast for slow, fast
                              in zip(times["N1"], times["sweep"], strict=True))
    n1, sweep, plain, watched = (statistics.median(t) / batch for t in times.values())
    off = _difference(vit, engine, images, clean)
    return (f"{vit.shown:<34}{batch:>6}{n1:>12.3f}{sweep:>9.3f}{ratio:>8.2f}{off:>12.1e}"
            f"{max(watched - plain, 0) / (sweep + watched):>12.1%}")


def _watched(vit: Vit, images: torch.Tensor) -> None:
    def watch(_layer: int, attention: torch.Tensor) -> None:
        looking = look(attention, vit.anatomy.geometry)
        for measure in STRENGTH.values():
            measure(looking)

    clean_pass(vit.model, vit.anatomy, images, watch)


def _run(vit: Vit, engine: Callable, images: torch.Tensor, clean: CleanPass) -> list[torch.Tensor]:
    return [embeddings(vit.model, pruned.features)
            for pruned in engine(vit.model, vit.anatomy, images, clean, zero)]


def _difference(vit: Vit, engine: Callable, images: torch.Tensor, clean: CleanPass) -> float:
    """Largest relative difference of any (image, layer, head) embedding from N1's."""
    pairs = zip(_run(vit, engine, images, clean), _run(vit, hooks_engine, images, clean),
                strict=True)
    norm = torch.linalg.vector_norm
    return max((norm(a - b, dim=-1) / norm(b, dim=-1)).max().item() for a, b in pairs)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
