"""`headatlas demo`: the bundled ViTs on the bundled images, then the page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from precompute import options, zoo
from precompute.pipeline import Request, precompute
from precompute.progress import say

SAMPLES = {"attention": 12, "mean": 16, "resample": 16, "layer": 32, "partial": 4, "curves": 12,
           "pairs": 8}
"""Images of every sampled stage: few, so that the whole demo takes some minutes on a laptop, of
which the fit and the tests of the pattern spaces are the larger part."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=options.path, default=Path("demo-atlas"), metavar="DIR",
                        help="where to keep it (default: demo-atlas)")
    parser.add_argument("--port", type=int, default=8050)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--no-serve", action="store_true", help="stop when the store is there")


def run(args: argparse.Namespace) -> None:
    precompute(Request(models=[f"zoo:{name}" for name in zoo.names()], images=zoo.IMAGES,
                       labels=zoo.LABELS, store=args.store, samples=SAMPLES))
    serve = ["serve", "--store", str(args.store), "--host", args.host, "--port", str(args.port)]
    if args.no_serve:
        say(f"done; look at it with: headatlas {' '.join(serve)}")
        return
    # A process of its own: the page needs no torch, so it should not carry it.
    os.execv(sys.executable, [sys.executable, "-m", "headatlas", *serve])
