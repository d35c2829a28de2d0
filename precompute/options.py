"""Values on the command line, and what they mean; shared by the commands that run models."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from store.errors import AtlasError
from store.places import is_url

DEVICES = ("auto", "cpu", "cuda")


def device(wanted: str) -> str:
    """Raises AtlasError where a GPU is asked for and there is none."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and found == "cpu":
        raise AtlasError("--device cuda, but torch finds no CUDA device here")
    return found if wanted == "auto" else wanted


def path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is a URL; precompute reads and writes folders "
                                         "(a finished store can be uploaded as it is)")
    return Path(text)


def size(text: str) -> tuple[int, int]:
    """Height and width: N or HxW."""
    sides = text.lower().split("x")
    whole = all(side.isascii() and side.isdecimal() for side in sides)
    if len(sides) > 2 or not whole or not all(0 < int(side) <= 8192 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no image size: N or HxW, up to 8192")
    return int(sides[0]), int(sides[-1])
