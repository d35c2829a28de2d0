"""Stores that hold nothing but what the pattern spaces are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from precompute.freshness import write_made
from precompute.names import RULES
from store import places
from store.canon import CLASS, KINDS, PATCH, Kind, decode, encode
from store.reader import Store, open_store
from store.schema import TABLES
from store.writer import StoreWriter, to_table

Heads = Sequence[tuple[int, int]]


def shares(kind: Kind, images: int, heads: int, seed: int = 0) -> np.ndarray:
    """float[image, head, size]: bumps at a place that a head keeps, give or take."""
    rng = np.random.default_rng((seed, kind.size))
    middle = (kind.side - 1) / 2
    y, x = np.indices((kind.side, kind.side)) - middle
    places_ = rng.uniform(-middle, middle, (1, heads, 2, 1, 1)) \
        + rng.normal(0, 0.3, (images, heads, 2, 1, 1))
    wide = rng.uniform(0.5, 4, (1, heads, 1, 1))
    bumps = np.exp(-((y - places_[:, :, 0]) ** 2 + (x - places_[:, :, 1]) ** 2) / wide) + 1e-3
    beside = rng.dirichlet(np.full(len(kind.beside), 2.0), (images, heads))
    cells = bumps.reshape(images, heads, -1)
    return np.concatenate([cells / cells.sum(-1, keepdims=True), beside], -1)


def add_images(writer: StoreWriter, part: str, images: Sequence[int]) -> None:
    """A part of the images table."""
    writer.write_file(f"images/{part}.parquet", filled("images", len(images), {
        "image": list(images), "sha256": [f"{i * 7919 % 1000:04d}" for i in images]}))


def add_model(writer: StoreWriter, name: str, weights: str | None = None, side: int = 224) -> None:
    """A model's row."""
    writer.write_file(f"models/{places.slug(name)}/model.parquet", filled("models", 1, {
        "model": [name], "weights_sha256": [weights or name], "image_h": [side],
        "image_w": [side]}))


def add_unit(writer: StoreWriter, model: str, part: str, heads: Heads, images: Sequence[int],
             patterns: Mapping[str, np.ndarray]) -> None:
    """What a model's heads look like on these images (float[image, head, size] by kind; heads
    without a pattern have NaN), and with it the `heads` table of all its units."""
    codes = {kind: _codes(values) for kind, values in patterns.items()}
    rows = len(images) * len(heads)
    unit = filled("pattern_inputs", rows, {
        "model": [model] * rows, "image": np.repeat(images, len(heads)),
        "layer": [layer for layer, _ in heads] * len(images),
        "head": [head for _, head in heads] * len(images), **codes})
    writer.write_unit(f"models/{places.slug(model)}/heads/{part}", {"pattern_inputs": unit})
    summarise(writer, model)


def summarise(writer: StoreWriter, model: str) -> None:
    """The `heads` table of a model's units, as of new."""
    rows = Store(writer.path, tables=("pattern_inputs",), model=model).query(
        "SELECT layer, head, list(patch ORDER BY image) AS patch, "
        "list(class ORDER BY image) AS class FROM pattern_inputs "
        "GROUP BY layer, head ORDER BY layer, head").to_pylist()
    table = filled("heads", len(rows), {
        "model": [model] * len(rows), "layer": [row["layer"] for row in rows],
        "head": [row["head"] for row in rows],
        "pattern": [_name(row["head"]) for row in rows],
        "pattern_scores": [[{"name": rule.name, "needed": rule.needed,
                             "score": float(rule.name == _name(row["head"]))} for rule in RULES]
                           for row in rows],
        **{f"{kind}_pattern": [_mean(kind, row[kind]) for row in rows] for kind in KINDS}})
    units = " ".join(places.done_units(writer.path, model, "heads"))
    write_made(writer, places.model_folder(writer.path, model) / "heads.parquet", table,
               units.encode())


def _name(head: int) -> str:
    return "sink" if head % 2 else "self"


def _codes(values: np.ndarray) -> list[bytes | None]:
    rows = values.reshape(-1, values.shape[-1])
    return [None if np.isnan(row).any() else encode(row) for row in rows]


def _mean(kind: str, codes: list[list[int] | None]) -> np.ndarray | None:
    known = [code for code in codes if code is not None]
    return decode(KINDS[kind], np.array(known, np.uint8)).mean(0) if known else None


def filled(table: str, rows: int, columns: Mapping[str, object]) -> pa.Table:
    """Rows of which most columns are NULL."""
    return to_table(table, {name: columns.get(name, [None] * rows)
                            for name in TABLES[table].arrow.names})


def make_store(path: Path, models: Sequence[str] = ("a", "b"), images: int = 12,
               heads: Heads = tuple((layer, head) for layer in range(3) for head in range(3)),
               ) -> StoreWriter:
    """Models whose images came in two parts; the second has no class token."""
    writer = StoreWriter(path)
    parts = {"00000": range(images // 2), "00001": range(images // 2, images)}
    for part, numbers in parts.items():
        if len(numbers):
            add_images(writer, part, numbers)
    for seed, model in enumerate(models):
        add_model(writer, model)
        looks = {kind.name: shares(kind, images, len(heads), seed)
                 for kind in ((PATCH,) if seed == 1 else (PATCH, CLASS))}
        for part, numbers in parts.items():
            if len(numbers):
                add_unit(writer, model, part, heads, list(numbers),
                         {kind: values[list(numbers)] for kind, values in looks.items()})
    return writer


def opened(writer: StoreWriter) -> Store:
    return open_store(writer.path)
