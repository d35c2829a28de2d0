"""Putting images and models on a store's books, before any work is done on them."""

from __future__ import annotations

import itertools
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from precompute.images import Picture, match_labels, read_labels, read_picture
from precompute.models import Vit
from precompute.progress import say
from store import places
from store.errors import ImagesError, ModelError
from store.reader import Store
from store.writer import StoreWriter, to_table

PART = 32
"""Images in a part. A part of one model is a unit of work: a crash costs at most one."""


@dataclass(frozen=True)
class Folder:
    """The images a user points at: paths in order, labels by path, at most `limit` of them."""

    folder: Path
    paths: list[str]
    labels: dict[str, str]
    limit: int | None = None


def read_folder(folder: Path, paths: list[str], labels: Path | None, limit: int | None) -> Folder:
    """Join the labels, if any, to the paths. Raises ImagesError where they do not match."""
    found = {} if labels is None else match_labels(read_labels(labels), paths, labels, folder)
    return Folder(folder.absolute(), paths, found, limit)


def register_images(path: Path, given: Folder) -> StoreWriter:
    """Append the folder's new readable images to the store (made if need be).

    Unreadable ones are reported, counted and skipped. Raises ImagesError if no image is left, or
    if labels differ from those the store has.
    """
    known = _known(path, given)
    skipped: list[str] = []
    fresh = _readable(given, known, skipped)
    first = next(fresh, None)
    if skipped:
        _report(skipped, given)
    if first is None and not known:
        raise ImagesError(f"none of the {len(given.paths)} images in {given.folder} can be read "
                          f"(first: {skipped[0]})")
    writer = StoreWriter(path)
    with writer.lock():
        known = _known(path, given)  # another run may have been quicker
        before = len(skipped)
        pictures = () if first is None else itertools.chain([first], fresh)
        added = _append(writer, given, (p for p in pictures if p.path not in known))
    if len(skipped) > before:
        _report(skipped[before:], given)
    if added or skipped:
        say(f"images: {added} added, {len(skipped)} unreadable and skipped")
    unlabelled = sum(p not in given.labels for p in given.paths) if given.labels else 0
    if unlabelled:
        say(f"images: {unlabelled} of {len(given.paths)} have no label; their true-class measures "
            "are NULL")
    return writer


def _known(path: Path, given: Folder) -> set[str]:
    """Paths already in the store; checks that their labels still hold."""
    if not (path / places.MARKER).exists():
        return set()
    rows = Store(path).query("SELECT path, label FROM images").to_pylist()
    changed = [r for r in rows if given.labels.get(r["path"], r["label"]) != r["label"]]
    if changed:
        one = changed[0]
        raise ImagesError(
            f"the labels do not match the store's: {len(changed)} images differ (first: "
            f"{one['path']} is {one['label']!r} in the store, {given.labels[one['path']]!r} now); "
            "labels are fixed when images are added, make a new store")
    return {r["path"] for r in rows}


def _readable(given: Folder, known: set[str], skipped: list[str]) -> Iterator[Picture]:
    """New images in order of path, until the limit counts full; the others go to `skipped`."""
    count = 0
    for path in given.paths:
        if given.limit is not None and count >= given.limit:
            return
        if path not in known:
            try:
                yield read_picture(given.folder, path)
            except ImagesError as error:
                skipped.append(str(error))
                continue
        count += 1


def _append(writer: StoreWriter, given: Folder, pictures: Iterator[Picture]) -> int:
    """Write pictures as new parts, numbered on from the last; returns how many."""
    store = Store(writer.path)
    (start,) = store.query("SELECT coalesce(max(image) + 1, 0) AS n FROM images")["n"].to_pylist()
    part = len(places.parts_of(writer.path))
    added = 0
    for chunk in _chunked(pictures, PART):
        writer.write_file(f"images/{part:05d}.parquet",
                          _image_rows(chunk, start + added, given))
        part, added = part + 1, added + len(chunk)
    return added


def _chunked(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while chunk := list(itertools.islice(pictures, size)):
        yield chunk


def _image_rows(pictures: list[Picture], start: int, given: Folder) -> pa.Table:
    return to_table("images", {
        "image": list(range(start, start + len(pictures))),
        "path": [p.path for p in pictures],
        "folder": [str(given.folder)] * len(pictures),
        "label": [given.labels.get(p.path) for p in pictures],
        "width": [p.width for p in pictures], "height": [p.height for p in pictures],
        "sha256": [p.sha256 for p in pictures], "thumbnail": [p.thumbnail for p in pictures]})


def _report(skipped: list[str], given: Folder) -> None:
    for line in skipped[:5]:
        say(f"skipped, unreadable: {line}")
    if len(skipped) > 5:
        say(f"skipped, unreadable: and {len(skipped) - 5} more in {given.folder}")


def register_model(writer: StoreWriter, name: str, vit: Vit, engine: str) -> None:
    """Write the model's row, or check that the one there is of the same model."""
    row = model_row(name, vit, engine)
    with writer.lock():
        file = places.model_folder(writer.path, name) / "model.parquet"
        if not file.exists():
            writer.write_file(file.relative_to(writer.path), to_table(
                "models", {k: [v] for k, v in row.items()}))
            return
    (there,) = Store(writer.path).query("SELECT * FROM models WHERE model = ?", [name]).to_pylist()
    for key in ("weights_sha256", "image_h", "image_w", "family", "preprocessing"):
        if there[key] != row[key]:
            raise ModelError(f"the store already has a model named {name!r} with another {key} "
                             f"({there[key]}, made from {there['spec']}): give this one a --name")


def model_row(name: str, vit: Vit, engine: str) -> dict[str, object]:
    """What is known of a model before it has seen an image."""
    anatomy = vit.anatomy
    geometry = anatomy.geometry
    return {
        "model": name, "spec": vit.spec.absolute, "family": anatomy.family, "engine": engine,
        "layers": anatomy.layers, "heads": max(anatomy.heads), "grid_h": geometry.grid_h,
        "grid_w": geometry.grid_w, "patch": anatomy.patch, "image_h": anatomy.image[0],
        "image_w": anatomy.image[1], "prefix_tokens": geometry.prefix,
        "class_token": geometry.class_token, "registers": geometry.registers,
        "parameters": sum(p.numel() for p in vit.model.parameters()),
        "classifier": "native" if vit.class_names else None,
        "classes": len(vit.class_names) if vit.class_names else None, "accuracy": None,
        "weights_sha256": vit.weights_sha256,
        "preprocessing": json.dumps(vit.preprocessing, sort_keys=True),
        "versions": json.dumps(_versions(vit)),
    }


def _versions(vit: Vit) -> dict[str, str]:
    packages = ("headatlas", "torch", "timm", "scikit-learn", "numpy", "pillow")
    return {"python": platform.python_version(), "device": vit.device.type,
            **{package: version(package) for package in packages}}
