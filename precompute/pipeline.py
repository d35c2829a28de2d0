"""The sentence: models and images → clean pass → classifier → pruned heads → rows → Parquet.

Every step leaves finished files behind and skips those it finds, so that running again after a
crash does only what is left, and adding a model or images does only what is new.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch

from precompute import images, models
from precompute.batches import Batch, Slice, batch_size, count_images, read_batch, slices
from precompute.clean import clean_pass
from precompute.describe import choose_classifier, class_map, describe, embed_batch
from precompute.heads import Subject, measure_heads
from precompute.models import Vit
from precompute.progress import Progress, say
from precompute.register import read_folder, register_images, register_model
from precompute.summaries import summarise
from precompute.sweep import ENGINES, choose_engine
from precompute.workers import default_threads, in_order
from store import places
from store.errors import AtlasError, ModelError
from store.reader import Store
from store.writer import StoreWriter


@dataclass(frozen=True)
class Request:
    """What `headatlas precompute` was asked for. Sizes and names are one per model, or None."""

    models: Sequence[str]
    images: Path
    store: Path
    labels: Path | None = None
    names: Sequence[str] = ()
    sizes: Sequence[tuple[int, int]] = ()
    limit: int | None = None
    device: str = "cpu"
    batch: int | None = None
    threads: int | None = None


def precompute(request: Request) -> None:
    """Bring the store up to the models and images asked for.

    Raises AtlasError subclasses for whatever a user can mend; the store can be resumed after any.
    """
    if request.device == "cpu":
        torch.set_num_threads(1)  # see precompute.workers; and the same bits however often resumed
    given = read_folder(request.images, images.list_images(request.images), request.labels,
                        request.limit)
    vits = load_models(request)
    writer = register_images(request.store, given)
    for name, vit in vits.items():
        register_model(writer, name, vit, pick_engine(writer, name, vit, request))
    for name, vit in vits.items():
        analyse(writer, name, vit, request)
    finish_others(writer, vits, request)


def load_models(request: Request) -> dict[str, Vit]:
    """Every model asked for, by the name it is shown by."""
    count = len(request.models)
    sizes: list[tuple[int, int] | None] = [*request.sizes] or [None]
    vits = [models.load(spec, size, request.device)
            for spec, size in zip(request.models, sizes * count if len(sizes) == 1 else sizes,
                                  strict=True)]
    names = list(request.names) or [vit.shown for vit in vits]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ModelError(f"two models would be called {repeated[0]!r}: give each a --name")
    return dict(zip(names, vits, strict=True))


def analyse(writer: StoreWriter, name: str, vit: Vit, request: Request) -> None:
    """All that a store holds about one model, over all the store's images."""
    clean_stage(writer, name, vit, request)
    classifier = choose_classifier(writer, name, vit)
    labels = class_map(writer, name, vit, classifier)
    engine = pick_engine(writer, name, vit, request)
    describe(writer, name, vit, classifier, labels, engine)
    head_stage(writer, Subject(name, vit, ENGINES[engine], classifier, labels), request)
    summary_stage(writer, name)


def clean_stage(writer: StoreWriter, name: str, vit: Vit, request: Request) -> None:
    """Embeddings of every image."""
    _by_part(writer, name, vit, request, "clean",
             lambda twin, batch: {"embeddings": embed_batch(name, twin, batch)})


def head_stage(writer: StoreWriter, subject: Subject, request: Request) -> None:
    """Importance and strength of every head on every image."""
    _by_part(writer, subject.name, subject.vit, request, "heads",
             lambda twin, batch: measure_heads(replace(subject, vit=twin), batch))


def _by_part(writer: StoreWriter, name: str, vit: Vit, request: Request, stage: str,
             measure: Callable[[Vit, Batch], dict[str, pa.Table]]) -> None:
    """Do the parts of a stage that are missing, each written whole."""
    store = Store(writer.path)
    missing = places.missing_parts(writer.path, name, stage)
    if not missing:
        return
    folder = request.images.absolute()
    chosen = slices(store, missing, batch_size(vit, request.batch))
    target = places.model_folder(writer.path, name).relative_to(writer.path) / stage

    def work(twin: Vit, one: Slice) -> tuple[Slice, dict[str, pa.Table]]:
        return one, measure(twin, read_batch(twin, one, folder))

    threads = request.threads or default_threads(vit.device.type)
    with Progress(f"{name}, {stage}", count_images(store, missing)) as progress:
        done = progress.watch(in_order(work, chosen, vit, threads), lambda r: len(r[0].rows))
        for part, results in itertools.groupby(done, key=lambda result: result[0].part):
            found = [tables for _, tables in results]
            writer.write_unit(target / part, {
                table: pa.concat_tables([rows[table] for rows in found]) for table in found[0]})


def pick_engine(writer: StoreWriter, name: str, vit: Vit, request: Request) -> str:
    """The engine the model has, or the fastest that is right on the store's first images.

    Raises ModelError, before the model is on the books, if it cannot be analysed at all.
    """
    store = Store(writer.path)
    known = store.query("SELECT engine FROM models WHERE model = ?", [name])["engine"].to_pylist()
    if known:
        return known[0]
    first = next(slices(store, places.parts_of(writer.path)[:1], 2))
    batch = read_batch(vit, first, request.images.absolute())
    clean = clean_pass(vit.model, vit.anatomy, batch.pixels)
    engine = choose_engine(vit.model, vit.anatomy, batch.pixels, clean)
    if engine == "hooks":
        say(f"{name}: {vit.anatomy.family} is not its blocks in sequence; "
            "using a full forward pass per head, exact but slow")
    return engine


def summary_stage(writer: StoreWriter, name: str) -> None:
    """The `heads` table, unless it is there for all the images."""
    store = Store(writer.path)
    done = store.query("SELECT max(images) AS n FROM heads WHERE model = ?", [name])["n"][0].as_py()
    (images_now,) = store.query("SELECT count(*) AS n FROM images")["n"].to_pylist()
    if done != images_now:
        folder = places.model_folder(writer.path, name).relative_to(writer.path)
        writer.write_file(folder / "heads.parquet", summarise(store, name))


def finish_others(writer: StoreWriter, done: dict[str, Vit], request: Request) -> None:
    """All models of a store see the same images: bring those not named up to date as well."""
    for name in places.models_of(writer.path):
        if name in done or not places.missing_parts(writer.path, name, "heads"):
            continue
        (row,) = Store(writer.path).query(
            "SELECT spec, image_h, image_w, engine FROM models WHERE model = ?", [name]).to_pylist()
        say(f"{name}: in the store, but not over all its images; finishing it")
        try:
            vit = models.load(row["spec"], (row["image_h"], row["image_w"]), request.device)
            register_model(writer, name, vit, row["engine"])
            analyse(writer, name, vit, request)
        except AtlasError as error:
            say(f"{name}: left incomplete: {error} (to drop it, remove "
                f"{places.model_folder(writer.path, name)})")
