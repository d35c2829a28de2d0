"""A unit's images as batches of pixels."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from precompute.images import decode, read_bytes
from precompute.models import Vit
from store import places
from store.errors import ImagesError
from store.reader import Store, unglobbed

CLEAN_TOKENS = {"cpu": 1024, "cuda": 32_768}
"""Tokens of a clean batch: see `precompute.sweep.ROW_TOKENS`."""

READERS = {"cpu": 0, "cuda": 8}
"""Threads that decode images beside the work. On a CPU every core has work of its own."""


@dataclass(frozen=True)
class Batch:
    """Some images: their numbers, labels and pixels as the model wants them."""

    images: list[int]
    labels: list[str | None]
    pixels: Float[Tensor, "image channel y x"]


def rows_of(store: Store, model: str, stage: str, unit: str) -> list[dict]:
    """The images of a unit of work, as rows of the images table, in order."""
    if stage in places.OVER_ALL:
        return part_rows(store, unit)
    return image_rows(store, places.read_sample(store.path, model, stage)["units"][unit])


def unit_sizes(path: Path, model: str, stage: str) -> dict[str, int]:
    """How many images each missing unit of a stage has."""
    missing = places.missing_units(path, model, stage)
    if stage in places.OVER_ALL:
        return {unit: pq.read_metadata(path / "images" / f"{unit}.parquet").num_rows
                for unit in missing}
    units = places.read_sample(path, model, stage)["units"]
    return {unit: len(units[unit]) for unit in missing}


def part_rows(store: Store, part: str) -> list[dict]:
    """The rows of one part of the images table, in order."""
    files = [unglobbed(file) for file in store.files["images"] if file.stem == part]
    return store.query("SELECT image, path, folder, label, sha256 FROM read_parquet(?) "
                       "ORDER BY image", [files]).to_pylist()


def image_rows(store: Store, images: Sequence[int]) -> list[dict]:
    """The rows of these images, in order."""
    return store.query("SELECT image, path, folder, label, sha256 FROM images "
                       "WHERE image IN (SELECT unnest(?::INTEGER[])) ORDER BY image",
                       [list(images)]).to_pylist()


def batches(vit: Vit, rows: list[dict], folder: Path | None, size: int) -> Iterator[Batch]:
    """The pixels of these images, `size` at a time; the next are read while the last are in work.

    They are read from `folder` where they are there, else from where they were first found.
    Raises ImagesError if one is gone, or no longer what it was.
    """
    threads = READERS[vit.device.type]
    if not threads:
        for chunk in _chunked(rows, size):
            yield _batch(vit, chunk, [_pixels(row, vit, folder) for row in chunk])
        return
    with ThreadPoolExecutor(threads) as readers:
        pending: deque[tuple[list[dict], list[Future[Tensor]]]] = deque()
        for chunk in _chunked(rows, size):
            pending.append((chunk, [readers.submit(_pixels, row, vit, folder) for row in chunk]))
            if len(pending) > 1:
                yield _read(vit, *pending.popleft())
        while pending:
            yield _read(vit, *pending.popleft())


def _chunked(rows: list[dict], size: int) -> Iterator[list[dict]]:
    for start in range(0, len(rows), size):
        yield rows[start:start + size]


def _read(vit: Vit, rows: list[dict], pixels: list[Future[Tensor]]) -> Batch:
    return _batch(vit, rows, [one.result() for one in pixels])


def _batch(vit: Vit, rows: list[dict], pixels: list[Tensor]) -> Batch:
    return Batch([r["image"] for r in rows], [r["label"] for r in rows],
                 torch.stack(pixels).to(vit.device))


def batch_size(vit: Vit, wanted: int | None) -> int:
    """Images in a clean batch: as asked, else about CLEAN_TOKENS tokens."""
    return wanted or max(1, CLEAN_TOKENS[vit.device.type] // vit.anatomy.geometry.tokens)


def _pixels(row: dict, vit: Vit, folder: Path | None) -> Float[Tensor, "channel y x"]:
    path = row["path"]
    here = folder is not None and (folder / path).exists()
    source = folder if here and folder is not None else Path(row["folder"])
    content = read_bytes(source, path)
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ImagesError(f"{source / path} is no longer the image that the store knows by that "
                          "name; restore it or make a new store")
    return vit.transform(decode(content, vit.mode, path))
