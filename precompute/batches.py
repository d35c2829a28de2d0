"""A part of the store's images as batches of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from precompute.images import decode, read_bytes
from precompute.models import Vit
from store.errors import ImagesError
from store.reader import Store, unglobbed

CLEAN_TOKENS = {"cpu": 1024, "cuda": 32_768}
"""Tokens of a clean batch: see `precompute.sweep.ROW_TOKENS`."""


@dataclass(frozen=True)
class Batch:
    """Some images: their numbers, labels and pixels as the model wants them."""

    images: list[int]
    labels: list[str | None]
    pixels: Float[Tensor, "image channel y x"]


def batches(store: Store, part: str, vit: Vit, size: int, folder: Path | None) -> Iterator[Batch]:
    """The images of a part, `size` at a time.

    They are read from `folder` where they are there, else from where they were first found.
    Raises ImagesError if one is gone, or no longer what it was.
    """
    rows = part_rows(store, part)
    for start in range(0, len(rows), size):
        chunk = rows[start:start + size]
        pixels = torch.stack([_pixels(row, vit, folder) for row in chunk])
        yield Batch([r["image"] for r in chunk], [r["label"] for r in chunk],
                    pixels.to(vit.device))


def part_rows(store: Store, part: str) -> list[dict]:
    """The rows of one part of the images table, in order."""
    files = {file.stem: file for file in store.files["images"]}
    return store.query("SELECT image, path, folder, label, sha256 FROM read_parquet(?) "
                       "ORDER BY image", [unglobbed(files[part])]).to_pylist()


def batch_size(vit: Vit, wanted: int | None) -> int:
    """Images in a clean batch: as asked, else about CLEAN_TOKENS tokens."""
    tokens = vit.anatomy.geometry.prefix + vit.anatomy.geometry.patches
    return wanted or max(1, CLEAN_TOKENS[vit.device.type] // tokens)


def _pixels(row: dict, vit: Vit, folder: Path | None) -> Float[Tensor, "channel y x"]:
    path = row["path"]
    here = folder is not None and (folder / path).exists()
    source = folder if here and folder is not None else Path(row["folder"])
    content = read_bytes(source, path)
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ImagesError(f"{source / path} is no longer the image that the store knows by that "
                          "name; restore it or make a new store")
    return vit.transform(decode(content, vit.mode, path))
