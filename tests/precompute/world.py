"""A small world to precompute in: a folder of pictures, their labels, and checkpoints on disk."""

from __future__ import annotations

import csv
from pathlib import Path
from unittest import mock

import numpy as np
import timm
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

from precompute import cost, pipeline
from precompute.cost import Speed, calibrate
from precompute.models import Vit
from precompute.subject import FLOAT32
from store.reader import Store, open_store
from store.schema import TABLES, Table
from store.series_tables import FILE
from tests.precompute.vits import randomise

ARCHITECTURE = "vit_tiny_patch16_224"
SIZE = (32, 32)
KINDS = ("bird", "cat", "dog")
SOME = {"attention": 3, "mean": 5, "resample": 3, "leave_one_in": 2, "layer": 4, "partial": 2,
        "curves": 2, "pairs": 3}
"""Images of every sampled stage."""
NONE = dict.fromkeys(SOME, 0)


def make_pictures(folder: Path, count: int = 9, start: int = 0) -> Path:
    """Noise with a colour for each kind; some in subfolders, some grey, none square."""
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 120, (40, 50, 3), dtype=np.uint8)
        pixels[..., i % 3] += 100
        image = Image.fromarray(pixels)
        file = folder / (f"deep/er/{i:03d}.png" if i % 4 == 3 else f"{i:03d}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if i % 5 == 4 else image).save(file)
    return folder


def make_labels(folder: Path, file: Path) -> Path:
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "label", "note"])
        for path in sorted(folder.rglob("*.*")):
            writer.writerow([path.relative_to(folder).as_posix(), KINDS[int(path.stem) % 3], "x"])
    return file


def make_checkpoint(file: Path, classes: int = 0, seed: int = 0) -> str:
    """A SPEC for a small ViT with random weights whose heads matter."""
    model = timm.create_model(ARCHITECTURE, img_size=224, num_classes=classes)
    save_file(randomise(model, seed).state_dict(), file)
    return f"{ARCHITECTURE}@{file}"


def run(store: Path, images: Path, *specs: str, patterns: bool = False, **options: object) -> Store:
    """`headatlas precompute` without the command line, at a small size; in this process, without
    sampled stages and without the fit of the pattern spaces (ten seconds) unless told otherwise.
    How fast the machine is, which is only told, is found out once for all runs. Returns the open
    store."""
    options = {"sizes": [SIZE], "workers": 1, "samples": NONE, **options}
    fit = pipeline.lay_out if patterns else lambda *_args: None
    with mock.patch.object(pipeline, "lay_out", fit), mock.patch.object(cost, "calibrate", speed):
        pipeline.precompute(pipeline.Request(models=specs, images=images, store=store, **options))
    return open_store(store)


def speed(vit: Vit, engine: str, precision: str = FLOAT32) -> Speed:
    """`calibrate` of the first model of this kind."""
    kind = (vit.anatomy.image, vit.anatomy.heads, engine, precision)
    if kind not in SPEEDS:
        SPEEDS[kind] = calibrate(vit, engine, precision)
    return SPEEDS[kind]


SPEEDS: dict[tuple, Speed] = {}


def all_rows(store: Store) -> dict[str, list[dict]]:
    """Every row of every table, in order of key; floats as they are. With them the arrays that the
    page filters by, by their bytes."""
    def keys(table: Table) -> str:
        return ", ".join(f'"{key}"' for key in table.keys)

    files = sorted(Path(str(store.path)).glob(f"models/*/{FILE}"))
    return {name: store.query(f"SELECT * FROM {name} ORDER BY {keys(table)}").to_pylist()
            for name, table in TABLES.items()} | {
        FILE: [{name: array.tobytes() for name, array in load_file(file).items()}
               for file in files]}
