"""A store of any size with the real schema and made-up numbers, laid out as `precompute` does.

    python -m benchmarks.synthetic_store --out DIR [--models 10] [--layers 12] [--heads 12]
                                         [--images 10000] [--shard 1000] [--seed 0]

For benchmarks only. Heads differ, matter more for some labels than for others, and look like one
of a few patterns; all rows follow from that, a label and chance (`synthetic_world`). Every table
that a page reads has its rows. What is smaller than in a real store: `pattern_inputs` has the
first images only (all of them would take gigabytes), latents are coarse, thumbnails are shared,
`pruning_points`, `pair_scores` and `head_pairs` are empty, and `pattern_spaces` holds no weights.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks import synthetic_patterns as patterns
from benchmarks import synthetic_tables as tables
from benchmarks.synthetic_world import MEASURES, Nature, Numbers, Size, World, importance, strength
from precompute.curves import pruning_areas
from precompute.samples import unit_size
from precompute.series import write_series
from store import places
from store.schema import ABLATIONS
from store.writer import StoreWriter

THUMBNAILS, THUMBNAIL_SIDE = 16, 64
INPUTS = 32
"""Images of which `pattern_inputs` are kept."""

SAMPLED = {"mean": 200, "resample": 200, "leave_one_in": 200, "layer": 32, "partial": 64,
           "attention": 2}
"""Stages that are done on some images only: on how many."""


def make_store(path: Path, size: Size, say: Callable[[str], None] = lambda text: None) -> Path:
    """Write the store, model by model and part by part, and return its path. Raises StoreError
    where something else is there."""
    writer = StoreWriter(path)
    world = World(size)
    _write_images(writer, world)
    all_looks = []
    for number, name in enumerate(size.names):
        started = time.perf_counter()
        nature = Nature(world, number)
        all_looks.append(patterns.Looks(nature))
        _write_model(writer, nature, all_looks[-1])
        say(f"{name}: {time.perf_counter() - started:.1f} s")
    writer.write_file("patterns/pattern_spaces.parquet", patterns.pattern_spaces(size))
    writer.write_file("patterns/pattern_clusters.parquet", patterns.pattern_clusters(all_looks))
    writer.write_file("patterns/pattern_evidence.parquet", patterns.pattern_evidence())
    for name in size.names:
        started = time.perf_counter()
        write_series(writer, name)
        say(f"{name}, series: {time.perf_counter() - started:.1f} s")
    return path


def _write_images(writer: StoreWriter, world: World) -> None:
    thumbnails = _thumbnails(np.random.default_rng(world.size.seed))
    for part, ids in world.size.parts.items():
        rows = tables.image_rows(world.size, world.label, world.names, ids, thumbnails)
        listed = rows.select(["image", "path", "folder", "label", "sha256"]).to_pylist()
        writer.write_bytes(f"images/{part}.json", json.dumps(listed).encode())
        writer.write_file(f"images/{part}.parquet", rows)


def _thumbnails(rng: np.random.Generator) -> list[bytes]:
    """A few small WebPs."""
    found = []
    for _ in range(THUMBNAILS):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize(
            (THUMBNAIL_SIDE, THUMBNAIL_SIDE)).save(buffer, "WEBP")
        found.append(buffer.getvalue())
    return found


def _write_model(writer: StoreWriter, nature: Nature, looks: patterns.Looks) -> None:
    size, folder = nature.size, f"models/{places.slug(nature.name)}"
    values = {name: np.empty((size.images, size.all_heads), np.float32) for name in MEASURES}
    for part, ids in size.parts.items():
        found = _write_part(writer, nature, looks, part, ids)
        for name, kept in values.items():
            kept[ids] = found[name]
    means = {"zero": _means(values)} | _write_samples(writer, nature)
    images = {a: size.images if a == "zero" else min(SAMPLED[a], size.images) for a in ABLATIONS}
    curves = patterns.pruning_curves(nature)
    for name, table in (
            ("model", tables.model_row(nature, SAMPLED["mean"])),
            ("layers", tables.layer_rows(nature)), ("predictions", tables.predictions(nature)),
            ("head_ablations", tables.head_ablations(nature, means, images)),
            ("rank_agreement", tables.rank_agreement(nature, means, images)),
            ("pruning_curves", curves), ("pruning_areas", pruning_areas(curves, nature.name)),
            ("head_places", patterns.head_places(looks)),
            ("head_matches", patterns.head_matches(nature)),
            ("heads", tables.heads(nature, values, looks.columns()))):
        writer.write_file(f"{folder}/{name}.parquet", table)


def _write_part(writer: StoreWriter, nature: Nature, looks: patterns.Looks, part: str,
                ids: np.ndarray) -> Numbers:
    """The units of one part of the images; returns its measures."""
    folder, rng = f"models/{places.slug(nature.name)}", nature.rng(6, int(ids[0]))
    found = {**importance(nature, ids, rng), **strength(nature, ids, rng)}
    unit = {"head_scores": tables.head_scores(nature, ids, found),
            "head_strength": tables.head_strength(nature, ids, found)}
    first = ids[ids < INPUTS]
    if len(first):
        unit["pattern_inputs"] = patterns.pattern_inputs(
            looks, first, {name: values[:len(first)] for name, values in found.items()})
    writer.write_unit(f"{folder}/clean/{part}", {"embeddings": tables.embeddings(nature, ids)})
    writer.write_unit(f"{folder}/heads/{part}", unit)
    writer.write_file(f"{folder}/patterns/{part}.parquet",
                      patterns.head_patterns(looks, ids, rng))
    return found


def _write_samples(writer: StoreWriter, nature: Nature) -> dict[str, Numbers]:
    """The units of the stages on some images; returns the mean measures of every ablation."""
    folder, means = f"models/{places.slug(nature.name)}", {}
    for stage, (name, count) in enumerate(SAMPLED.items()):
        ids = np.sort(nature.rng(7).permutation(nature.size.images)[:count])
        found = importance(nature, ids, nature.rng(8, stage))
        if name in ABLATIONS:
            means[name] = _means(found)
        units = _units(ids)
        writer.write_bytes(f"{folder}/samples/{name}.json", json.dumps(
            {"units": {unit: own.tolist() for unit, own in units.items()}, "fixed": {}}).encode())
        for unit, own in units.items():
            part = {m: values[np.searchsorted(ids, own)] for m, values in found.items()}
            writer.write_unit(f"{folder}/{name}/{unit}", _sampled(nature, name, own, part))
    return means


def _sampled(nature: Nature, stage: str, ids: np.ndarray, found: Numbers) -> dict[str, pa.Table]:
    if stage in ABLATIONS:
        return {"head_scores": tables.head_scores(nature, ids, found, stage)}
    return {"layer": lambda: {"layer_scores": tables.layer_scores(nature, ids, found)},
            "partial": lambda: {"partial_pruning": tables.partial_pruning(nature, ids, found)},
            "attention": lambda: {"attention": patterns.attention(nature, ids)}}[stage]()


def _units(ids: np.ndarray) -> dict[str, np.ndarray]:
    step = unit_size(len(ids))
    return {f"{k:05d}": ids[start:start + step]
            for k, start in enumerate(range(0, len(ids), step))}


def _means(values: Numbers) -> Numbers:
    return {name: own.mean(0) for name, own in values.items()}


def add_size(parser: argparse.ArgumentParser) -> None:
    for name, default in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)


def size_of(args: argparse.Namespace) -> Size:
    return Size(**{name: getattr(args, name) for name in vars(Size())})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the store's folder, a new one")
    add_size(parser)
    args = parser.parse_args(argv)
    started = time.perf_counter()
    make_store(args.out, size_of(args), lambda text: print(text, flush=True))
    written = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {written / 1e9:.2f} GB in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
