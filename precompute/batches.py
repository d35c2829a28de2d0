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


@dataclass(frozen=True)
class Slice:
    """Some rows of a part of the images table: a batch that is not read yet."""

    part: str
    rows: list[dict]


def slices(store: Store, parts: list[str], size: int) -> Iterator[Slice]:
    """The images of these parts, `size` at a time; no slice crosses from one part to the next."""
    for part in parts:
        rows = part_rows(store, part)
        for start in range(0, len(rows), size):
            yield Slice(part, rows[start:start + size])


def read_batch(vit: Vit, chosen: Slice, folder: Path | None) -> Batch:
    """The pixels of a slice, as the model wants them.

    They are read from `folder` where they are there, else from where they were first found.
    Raises ImagesError if one is gone, or no longer what it was.
    """
    pixels = torch.stack([_pixels(row, vit, folder) for row in chosen.rows])
    return Batch([r["image"] for r in chosen.rows], [r["label"] for r in chosen.rows],
                 pixels.to(vit.device))


def part_rows(store: Store, part: str) -> list[dict]:
    """The rows of one part of the images table, in order."""
    return store.query("SELECT image, path, folder, label, sha256 FROM read_parquet(?) "
                       "ORDER BY image", [_files(store, [part])]).to_pylist()


def count_images(store: Store, parts: list[str]) -> int:
    """How many images these parts hold."""
    (count,) = store.query("SELECT count(*) AS n FROM read_parquet(?)",
                           [_files(store, parts)])["n"].to_pylist()
    return count


def _files(store: Store, parts: list[str]) -> list[str]:
    wanted = set(parts)
    return [unglobbed(file) for file in store.files["images"] if file.stem in wanted]


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
