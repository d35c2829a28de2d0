"""`headatlas precompute`: the command line of the pipeline."""

from __future__ import annotations

import argparse

from precompute import options
from precompute.patterning import LATENT, MOST_LATENT
from precompute.pipeline import Request, precompute
from precompute.progress import say
from precompute.shards import ENGINES
from precompute.specs import FORMS
from precompute.stages import SAMPLED, STAGES
from store.errors import AtlasError

ABLATION_STAGES = ("mean", "resample", "leave_one_in", "layer")
"""What --ablation names."""

SAMPLES = (("attention", "keep-attention", "the attention itself is kept, to be looked at"),
           ("partial", "partial", "parts of every head's attention set to 0"),
           ("curves", "curves",
            "heads pruned one after the other, in many orders: images that judge"),
           ("pairs", "pairs", "pairs of heads pruned together"))
"""Stages with an option of their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", required=True, metavar="SPEC",
                        help=f"{FORMS}; repeat for several models")
    parser.add_argument("--images", type=options.path, required=True, metavar="DIR",
                        help="folder of images, read with its subfolders in order of path")
    parser.add_argument("--labels", type=options.path, metavar="CSV",
                        help="columns image,label: paths relative to DIR, and their classes")
    parser.add_argument("--store", type=options.path, required=True, metavar="DIR",
                        help="the store to make, to extend or to finish")
    parser.add_argument("--name", action="append", default=[],
                        help="the name shown, one for each --model (default: from the SPEC)")
    parser.add_argument("--image-size", action="append", default=[], type=options.size, metavar="N",
                        help="input side in pixels, or HxW; one for all models or one for each "
                             "(default: the model's own)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")
    parser.add_argument("--device", choices=options.DEVICES, default="auto")
    parser.add_argument("--batch-size", type=_positive, metavar="N",
                        help="images at a time (default: about 1,000 tokens on a CPU)")
    _add_stages(parser.add_argument_group(
        "which interventions, on how many images (a whole number, or all; 0: not at all)"))
    _add_patterns(parser.add_argument_group("the space of attention patterns"))
    _add_workers(parser.add_argument_group("who does the work"))


def _add_stages(group: argparse._ArgumentGroup) -> None:
    defaults = {name: STAGES[name].images for name in SAMPLED}
    group.add_argument(
        "--ablation", action="append", default=[], type=_ablation, metavar="NAME[=N]",
        help=f"{', '.join(ABLATION_STAGES)}; repeat for several; without N on all images. Zero "
             "ablation is always done on all. (Default: "
             + ", ".join(f"{name}={defaults[name]}" for name in ABLATION_STAGES) + ")")
    for name, option, what in SAMPLES:
        group.add_argument(f"--{option}", type=_images, dest=name, default=defaults[name],
                           metavar="N", help=f"{what} ({defaults[name]})")
    group.add_argument("--reference", type=_positive, default=64, metavar="N",
                       help="images whose mean the mean ablation puts in (64)")
    group.add_argument("--draws", type=_positive, default=1, metavar="N",
                       help="donors of each image in the resample ablation (1)")
    group.add_argument("--precision", choices=("float32", "bfloat16"), default="float32",
                       help="arithmetic of the interventions (float32)")
    group.add_argument("--despite-selftest", action="store_true",
                       help="go on with a model that fails the self-test")


def _add_patterns(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--latent", type=_latent, metavar="N",
                       help=f"numbers of a latent, when the space is fitted ({LATENT})")
    group.add_argument("--refit-patterns", action="store_true",
                       help="fit the space again, on the heads of all models; otherwise heads of "
                            "models that are added are placed in the one that there is")


def _add_workers(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--engine", choices=tuple(ENGINES), default="local",
                       help="processes on this machine, or a Ray cluster (local)")
    group.add_argument("--workers", "--threads", type=_positive, metavar="N",
                       help="units in work at once (default: one a core, or one a GPU)")
    group.add_argument("--ray-address", metavar="ADDRESS",
                       help="of a running cluster (default: one is started on this machine)")
    group.add_argument("--plan", action="store_true", help="say what it would cost, and stop")


def run(args: argparse.Namespace) -> None:
    for given, what in ((args.name, "--name"), (args.image_size, "--image-size")):
        allowed = {0, len(args.model)} | ({1} if what == "--image-size" else set())
        if len(given) not in allowed:
            raise AtlasError(f"{len(args.model)} models but {len(given)} {what}: "
                             "give one for each --model")
    if any(not name.strip() for name in args.name):
        raise AtlasError("a --name is empty")
    precompute(Request(
        models=args.model, images=args.images, store=args.store, labels=args.labels,
        names=args.name, sizes=args.image_size, limit=args.limit,
        device=options.device(args.device), batch=args.batch_size,
        samples={name: getattr(args, name) for name, _, _ in SAMPLES} | dict(args.ablation),
        reference=args.reference, draws=args.draws, precision=args.precision,
        despite_selftest=args.despite_selftest, engine=args.engine, workers=args.workers,
        address=args.ray_address, plan=args.plan,
        latent=args.latent, refit_patterns=args.refit_patterns))
    if not args.plan:
        say(f"done; look at it with: headatlas serve --store {args.store}")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _latent(text: str) -> int:
    size = _positive(text)
    if size > MOST_LATENT:
        raise argparse.ArgumentTypeError(f"a latent of {size} numbers: 1 to {MOST_LATENT}")
    return size


def _images(text: str) -> int | None:
    """How many images; None for all."""
    if text == "all":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images: a whole number or all")
    return int(text)


def _ablation(text: str) -> tuple[str, int | None]:
    """NAME or NAME=N, as a stage and its number of images."""
    name, equals, count = text.partition("=")
    if name not in ("zero", *ABLATION_STAGES):
        raise argparse.ArgumentTypeError(
            f"{name!r} is no ablation; one of zero, {', '.join(ABLATION_STAGES)}")
    images = _images(count) if equals else None
    if name == "zero" and images is not None:
        raise argparse.ArgumentTypeError("zero ablation is done on all images; the others go by it")
    return "heads" if name == "zero" else name, images
