"""Which other images stand in for an image's own: the reference of the mean ablation and the donors
of the resample ablation. Settled once for a model, so that rows never mix two of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from precompute import reference
from precompute.batches import batch_size, batches, image_rows
from precompute.models import Vit
from precompute.progress import say
from precompute.samples import spread
from store import places
from store.reader import Store
from store.writer import StoreWriter

DONORS = 8
"""Images to take head outputs from; every worker holds those of all of them."""


class Settled(TypedDict):
    """Image numbers, and how many donors each image gets."""

    reference: list[int]
    donors: list[int]
    draws: int


def read_settled(home: Path) -> Settled:
    """What is settled for the model of this folder."""
    return json.loads((home / "reference.json").read_text())


def settle_reference(writer: StoreWriter, name: str, vit: Vit, folder: Path, images: int,
                     draws: int, batch: int | None) -> Settled:
    """Choose the images, unless that is done, and work out their mean, unless it is there."""
    home = places.model_folder(writer.path, name)
    store = Store(writer.path, tables=("images",))
    with writer.lock():
        if not (home / "reference.json").exists():
            sample = spread(store)
            chosen = Settled(reference=sorted(sample[:images]),
                             donors=sample[:max(DONORS, draws + 1)], draws=draws)
            writer.write_bytes((home / "reference.json").relative_to(writer.path),
                               json.dumps(chosen).encode())
    settled = read_settled(home)
    if settled["draws"] != draws:
        say(f"{name}: resamples {settled['draws']} times for each image, as when it was begun, "
            f"not {draws}")
    if not (home / "reference.npz").exists():
        found = reference.build(vit, batches(vit, image_rows(store, settled["reference"]), folder,
                                             batch_size(vit, batch)))
        with writer.lock():
            if not (home / "reference.npz").exists():  # another run may have been quicker
                writer.write_bytes((home / "reference.npz").relative_to(writer.path),
                                   reference.to_bytes(found))
    return settled
