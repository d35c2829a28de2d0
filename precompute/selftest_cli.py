"""`headatlas selftest`: proofs on one model, as a table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from precompute import images, models, options
from precompute.hooked import Pixels
from precompute.models import Vit
from precompute.selftest import Check, Verdict, examine, failures
from precompute.specs import FORMS
from store.errors import AtlasError

IMAGES = 2
HEAD = ("result", "check", "worst", "allowed", "what it proves")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="SPEC", help=FORMS)
    parser.add_argument("--images", type=options.path, metavar="DIR",
                        help=f"try it on the first {IMAGES} images of a folder (default: on noise)")
    parser.add_argument("--image-size", type=options.size, metavar="N",
                        help="input side in pixels, or HxW (default: the model's own)")
    parser.add_argument("--device", choices=options.DEVICES, default="auto")


def run(args: argparse.Namespace) -> None:
    torch.backends.cudnn.allow_tf32 = False  # float32 is the reference, also in the patch stem
    vit = models.load(args.model, args.image_size, options.device(args.device))
    pixels = noise(vit) if args.images is None else first_images(vit, args.images)
    started = time.monotonic()
    verdict = examine(vit, pixels)
    print(_described(vit, verdict, time.monotonic() - started))
    print(_table(verdict.checks))
    failed = failures(verdict.checks)
    if failed:
        raise AtlasError(f"model {args.model!r} failed the self-test: {failed}")


def noise(vit: Vit, count: int = IMAGES) -> Pixels:
    """Seeded images, coarse colours under fine noise, normalised as the model wants them."""
    generator = torch.Generator().manual_seed(0)
    channels, *sides = vit.preprocessing["input_size"]
    fine = torch.rand(count, channels, *sides, generator=generator)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    mixed = (fine + F.interpolate(coarse, size=tuple(sides), mode="bilinear")) / 2
    mean, std = (torch.tensor(vit.preprocessing[name])[:, None, None] for name in ("mean", "std"))
    return ((mixed - mean) / std).to(vit.device)


def first_images(vit: Vit, folder: Path, count: int = IMAGES) -> Pixels:
    """The first images of a folder. Raises ImagesError if there are none or they cannot be read."""
    read = [images.decode(images.read_bytes(folder, path), vit.mode, path)
            for path in images.list_images(folder)[:count]]
    return torch.stack([vit.transform(image) for image in read]).to(vit.device)


def _described(vit: Vit, verdict: Verdict, seconds: float) -> str:
    anatomy = vit.anatomy
    lines = [f"{vit.shown}: {anatomy.family}, {anatomy.depth} layers, {sum(anatomy.heads)} heads, "
             f"{vit.device.type}, {seconds:.1f} s",
             f"engine: {verdict.engine}"]
    return "\n".join([*lines, *(f"  not {reason}" for reason in verdict.passed_over)])


def _table(checks: list[Check]) -> str:
    rows = [HEAD] + [(c.state, c.name, "-" if c.worst is None else f"{c.worst:.1e}",
                      f"{c.allowed:.0e}" if c.allowed else "0", c.note) for c in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width
                                  in zip(row, widths, strict=False)), row[-1]]) for row in rows)
