"""`headatlas precompute`: the command line of the pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from precompute.pipeline import Request, precompute
from precompute.progress import say
from precompute.specs import FORMS
from store.errors import AtlasError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", required=True, metavar="SPEC",
                        help=f"{FORMS}; repeat for several models")
    parser.add_argument("--images", type=_path, required=True, metavar="DIR",
                        help="folder of images, read with its subfolders in order of path")
    parser.add_argument("--labels", type=_path, metavar="CSV",
                        help="columns image,label: paths relative to DIR, and their classes")
    parser.add_argument("--store", type=_path, required=True, metavar="DIR",
                        help="the store to make, to extend or to finish")
    parser.add_argument("--name", action="append", default=[],
                        help="the name shown, one for each --model (default: from the SPEC)")
    parser.add_argument("--image-size", action="append", default=[], type=_size, metavar="N",
                        help="input side in pixels, or HxW; one for all models or one for each "
                             "(default: the model's own)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch-size", type=_positive, metavar="N",
                        help="images at a time (default: about 1,000 tokens on a CPU)")
    parser.add_argument("--threads", type=_positive, metavar="N",
                        help="images in work at once, one a core (default: all cores)")


def run(args: argparse.Namespace) -> None:
    for given, what in ((args.name, "--name"), (args.image_size, "--image-size")):
        allowed = {0, len(args.model)} | ({1} if what == "--image-size" else set())
        if len(given) not in allowed:
            raise AtlasError(f"{len(args.model)} models but {len(given)} {what}: "
                             "give one for each --model")
    if any(not name.strip() for name in args.name):
        raise AtlasError("a --name is empty")
    torch.backends.cudnn.allow_tf32 = False  # float32 is the reference, also in the patch stem
    precompute(Request(
        models=args.model, images=args.images, store=args.store, labels=args.labels,
        names=args.name, sizes=args.image_size, limit=args.limit,
        device=_device(args.device), batch=args.batch_size, threads=args.threads))
    say(f"done; look at it with: headatlas serve --store {args.store}")


def _device(wanted: str) -> str:
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and found == "cpu":
        raise AtlasError("--device cuda, but torch finds no CUDA device here")
    return found if wanted == "auto" else wanted


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    whole = all(side.isascii() and side.isdecimal() for side in sides)
    if len(sides) > 2 or not whole or not all(0 < int(side) <= 8192 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no image size: N or HxW, up to 8192")
    return int(sides[0]), int(sides[-1])
