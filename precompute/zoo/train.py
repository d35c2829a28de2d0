"""Train the zoo: four small ViTs on Fashion-MNIST, on the CPU.

    python -m precompute.zoo.train --data FOLDER-OF-THE-IDX-FILES --out precompute/zoo/weights

What is trained, and with which settings, is in recipes.py. All runs: flips, smoothed labels, bf16
autocast, Muon on the block matrices (Jordan et al. 2024) and AdamW on the rest, warm-up and one
cosine. Heads start local-ish (sin-cos positions; mimetic queries and keys, Trockman & Kolter
2023). The 14x14 model starts from the 7x7 one, its patch embedding resized by the pseudo-inverse
(FlexiViT, Beyer et al. 2023), sees part of the patches before it sees all (PatchDropout, Liu et
al. 2023), and learns from the 7x7 model's probabilities too (Hinton et al. 2015).

The last 5,000 training images choose the settings; the test set is only measured, on the weights
as stored. The bundled models took 52 core-minutes; on another CPU or
thread count the bits will differ.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from precompute.zoo import fashion, optim, start
from precompute.zoo.publish import accuracy, publish
from precompute.zoo.recipes import RECIPES, Recipe

WARMUP = 0.03  # share of the steps
REPORTS = 24  # checkpoints a run
Targets = Float[Tensor, "image category"]
Loss = Float[Tensor, ""]

GLANCE = 1_000  # held-out images looked at while training


@dataclass(frozen=True)
class Step:
    batch: int
    patch_drop: float
    rate: float  # factor on the learning rates


def schedule(recipe: Recipe, images: int) -> list[Step]:
    """Every step of a run: a linear warm-up, then one cosine to zero over all stages."""
    stages = [
        stage for stage in recipe.stages for _ in range(round(stage.epochs * images / stage.batch))
    ]
    warm = WARMUP * len(stages)
    return [
        Step(
            batch=stage.batch,
            patch_drop=stage.patch_drop,
            rate=min(1.0, (n + 1) / warm) * (1 + math.cos(math.pi * n / len(stages))) / 2,
        )
        for n, stage in enumerate(stages)
    ]


def trained(name: str, out: Path) -> VisionTransformer:
    """The last checkpoint of a model that another one starts or learns from."""
    model = VisionTransformer(**RECIPES[name].architecture).eval()
    model.load_state_dict(torch.load(out / f"{name}.pt", weights_only=True))
    return unfused(model)


def build(recipe: Recipe, out: Path) -> VisionTransformer:
    """The untrained model, or the recipe's start resampled to it (which must be in `out`)."""
    model = start.initialise(VisionTransformer(**recipe.architecture))
    if recipe.start:
        model = start.resample(trained(recipe.start, out), model)
    return unfused(model).train()


def unfused(model: VisionTransformer) -> VisionTransformer:
    blocks: Any = model.blocks
    for block in blocks:
        block.attn.fused_attn = False  # on a CPU in bf16 the unfused path is about 3 x as fast
    return model


def shuffled(images: int, generator: torch.Generator) -> Iterator[int]:
    """Indices without end, each image once an epoch."""
    while True:
        yield from torch.randperm(images, generator=generator).tolist()


def drop_patches(model: VisionTransformer, share: float) -> None:
    kept = model.num_prefix_tokens
    drop = PatchDropout(share, num_prefix_tokens=kept) if share else nn.Identity()
    model.add_module("patch_drop", drop)


def targets(
    recipe: Recipe, teachers: list[VisionTransformer], batch: fashion.Batch, labels: fashion.Labels
) -> Targets:
    """Smoothed labels, mixed with what the teachers (if any) make of the same pixels."""
    classes = len(fashion.CLASSES)
    smooth = F.one_hot(labels, classes) * (1 - recipe.smoothing) + recipe.smoothing / classes
    if not teachers:
        return smooth
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        taught = torch.stack([teacher(batch).float().softmax(1) for teacher in teachers]).mean(0)
    return smooth.lerp(taught, recipe.teaching)


def loss_of(model: VisionTransformer, batch: fashion.Batch, wanted: Targets) -> Loss:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch)
    return F.cross_entropy(logits.float(), wanted)


def spent(began: tuple[float, float]) -> dict[str, float]:
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    return {"seconds": round(wall, 1), "core_minutes": round(cpu / 60, 2)}


def train(recipe: Recipe, data: Path, out: Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """One run: the model of its last step (nothing is chosen on the way), and what it cost."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    (pixels, labels), (held_pixels, held_labels) = fashion.read_training(data)
    model, teachers = build(recipe, out), [trained(name, out) for name in recipe.teachers]
    optimisers = optim.optimisers(model, recipe.muon_lr, recipe.adam_lr, recipe.muon_decay)
    peaks = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    order, steps = shuffled(len(pixels), generator), schedule(recipe, len(pixels))[: recipe.stop]
    every, seen = max(1, len(steps) // REPORTS), 0
    began = time.perf_counter(), time.process_time()
    for n, step in enumerate(steps, start=1):
        drop_patches(model, step.patch_drop)
        index = torch.tensor([next(order) for _ in range(step.batch)])
        batch = fashion.normalise(fashion.augment(pixels[index], recipe.shift, generator))
        loss = loss_of(model, batch, targets(recipe, teachers, batch, labels[index]))
        loss.backward()
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * step.rate
            optimiser.step()
            optimiser.zero_grad()
        seen += step.batch
        if n % every == 0 or n == len(steps):
            drop_patches(model, 0)
            torch.save(model.state_dict(), out / f"{recipe.name}.pt")
            held_out = accuracy(model, held_pixels[:GLANCE], held_labels[:GLANCE])
            print(
                f"{recipe.name} epoch {seen / len(pixels):.2f} loss {loss.item():.3f}"
                f" held-out {held_out:.3f} {spent(began)}",
                flush=True,
            )
    return model, {
        "date": date.today().isoformat(),
        "epochs": round(seen / len(pixels), 2),
        "threads": torch.get_num_threads(),
        **spent(began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, required=True, help="weights, cards and checkpoints")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=[*RECIPES], metavar="NAME")
    parser.add_argument("--threads", type=int, default=1, help="2 processes of 1 beat 1 of 2")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        model, run = train(RECIPES[name], args.data, args.out)
        if RECIPES[name].bundled:
            publish(RECIPES[name], model, run, args.data, args.out)


if __name__ == "__main__":
    main()
