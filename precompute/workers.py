"""What a worker does: one unit of work of one model, from images to Parquet.

A task is all it is told; everything else it finds in the store. So it is the same in this process,
in another one, or on another machine that sees the same store, images and checkpoints.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import torch

from precompute import models, reference
from precompute.batches import batch_size, batches, image_rows, rows_of
from precompute.describe import class_map, read_classifier
from precompute.memory import keep_memory
from precompute.models import Vit
from precompute.others import read_settled
from precompute.stages import STAGES, Stage
from precompute.subject import Subject
from store import places
from store.errors import ModelError
from store.reader import Store
from store.writer import StoreWriter


@dataclass(frozen=True)
class Task:
    """A unit of a stage of a model, of so many images; `batch` of them at a time, if it says so."""

    store: Path
    folder: Path
    model: str
    stage: str
    unit: str
    images: int
    device: str
    batch: int | None = None

    @property
    def place(self) -> Path:
        return places.model_folder(self.store, self.model) / self.stage / self.unit


def settle(device: str) -> None:
    """One thread for each process: splitting every small product over the cores costs more than it
    saves, and where cores disagree so do the last bits. float32 means float32 on a GPU too."""
    keep_memory()
    torch.backends.cudnn.allow_tf32 = False
    if device == "cpu":
        torch.set_num_threads(1)


def do(task: Task, tell: Callable[[int], object] = lambda images: None) -> int:
    """Do a unit, unless it is there; returns its images, and tells of them as it goes."""
    if task.place.is_dir():
        tell(task.images)
        return task.images
    settle(task.device)
    store = _store(task.store)
    store.refresh()
    stage = STAGES[task.stage]
    subject = subject_for(store, task, stage)
    fixed = places.read_sample(task.store, task.model, task.stage)["fixed"]
    found: list[dict[str, pa.Table]] = []
    for batch in batches(subject.vit, rows_of(store, task.model, task.stage, task.unit),
                         task.folder, batch_size(subject.vit, task.batch)):
        found.append(stage.measure(subject, batch, fixed))
        tell(len(batch.images))
    StoreWriter(task.store).write_unit(task.place.relative_to(task.store), {
        table: pa.concat_tables([tables[table] for tables in found]) for table in stage.tables})
    return task.images


def subject_for(store: Store, task: Task, stage: Stage) -> Subject:
    """The model as its row describes it, ready for a stage; the last one is kept for the next unit.
    """
    rows = store.query("SELECT spec, image_h, image_w, engine, precision, classifier, "
                       "weights_sha256 FROM models WHERE model = ?", [task.model]).to_pylist()
    if not rows:
        raise ModelError(f"the store has no row of the model {task.model!r}")
    home = places.model_folder(task.store, task.model)
    needs = [home / name for name, wanted in (
        ("probe.npz", rows[0]["classifier"] == "probe"),
        ("reference.npz", stage.reference)) if wanted]
    labels = store.query("SELECT DISTINCT label FROM images WHERE label IS NOT NULL ORDER BY label")
    key = (task.store, task.model, task.device, stage.donors, tuple(rows[0].items()),
           tuple(labels["label"].to_pylist()), tuple((f, f.stat().st_mtime_ns) for f in needs))
    if key not in _SUBJECTS:
        _SUBJECTS.clear()
        _SUBJECTS[key] = _subject(store, task, stage, rows[0])
    return _SUBJECTS[key]


_SUBJECTS: dict[tuple, Subject] = {}
_VITS: dict[tuple, Vit] = {}


def keep(vit: Vit) -> None:
    """Have this model at hand, in place of the one before."""
    _VITS.clear()
    _VITS[vit.spec.absolute, vit.anatomy.image, str(vit.device), vit.weights_sha256] = vit


def _vit(row: dict, device: str) -> Vit:
    """The model of a row. Raises ModelError if it is no longer the one that was registered."""
    size = (row["image_h"], row["image_w"])
    key = (row["spec"], size, device, row["weights_sha256"])
    if key not in _VITS:
        vit = models.load(row["spec"], size, device)
        if vit.weights_sha256 != row["weights_sha256"]:
            raise ModelError(f"{row['spec']} has other weights now than when it was registered")
        keep(vit)
    return _VITS[key]


def _subject(store: Store, task: Task, stage: Stage, row: dict) -> Subject:
    vit = _vit(row, task.device)
    home = places.model_folder(task.store, task.model)
    classifier = read_classifier(home, row["classifier"], vit)
    found = None
    if stage.reference:
        found = reference.from_bytes((home / "reference.npz").read_bytes(), vit.device)
    if stage.donors and found is not None:
        settled = read_settled(home)
        found = reference.with_donors(
            found, vit, batches(vit, image_rows(store, settled["donors"]), task.folder,
                                batch_size(vit, task.batch)), settled["draws"])
    return Subject(task.model, vit, row["engine"], classifier,
                   class_map(store, vit, classifier), found, row["precision"])


@lru_cache(maxsize=1)
def _store(path: Path) -> Store:
    """The models and images of a store; opened once, since it may have thousands of parts."""
    return Store(path, tables=("models", "images"))


atexit.register(_store.cache_clear)  # DuckDB complains of connections that outlive the interpreter
