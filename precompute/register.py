"""Putting images and models on a store's books, before any work is done on them."""

from __future__ import annotations

import itertools
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq

from precompute.anatomy import Geometry
from precompute.images import Picture, match_labels, read_labels, read_picture
from precompute.models import Vit
from precompute.progress import say
from precompute.samples import unit_size
from precompute.windows import layout_of
from store import places
from store.errors import ImagesError, ModelError
from store.reader import Store
from store.schema import TABLES
from store.writer import StoreWriter, to_table

SMALLEST_PART = 16


@dataclass(frozen=True)
class Folder:
    """The images a user points at: paths in order, labels by path, at most `limit` of them."""

    folder: Path
    paths: list[str]
    labels: dict[str, str]
    limit: int | None = None

    @property
    def part_size(self) -> int:
        """Images in a part: enough parts for many workers, but few files for many images."""
        return unit_size(min(len(self.paths), self.limit or len(self.paths)), SMALLEST_PART)


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
    rows = Store(path, tables=("images",)).query("SELECT path, label FROM images").to_pylist()
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
    store = Store(writer.path, tables=("images",))
    (start,) = store.query("SELECT coalesce(max(image) + 1, 0) AS n FROM images")["n"].to_pylist()
    part = len(places.parts_of(writer.path))
    added = 0
    for chunk in _chunked(pictures, given.part_size):
        _write_part(writer, f"{part:05d}", [
            {"image": start + added + i, "path": p.path, "folder": str(given.folder),
             "label": given.labels.get(p.path), "sha256": p.sha256}
            for i, p in enumerate(chunk)], chunk)
        part, added = part + 1, added + len(chunk)
    return added


def _chunked(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while chunk := list(itertools.islice(pictures, size)):
        yield chunk


def _write_part(writer: StoreWriter, part: str, rows: list[dict], pictures: list[Picture]) -> None:
    """A part of the images table, and before it the list from which it can be made again."""
    writer.write_bytes(f"images/{part}.json", json.dumps(rows).encode())
    columns: dict[str, object] = {key: [row[key] for row in rows] for key in rows[0]}
    writer.write_file(f"images/{part}.parquet", to_table("images", columns | {
        "width": [p.width for p in pictures], "height": [p.height for p in pictures],
        "thumbnail": [p.thumbnail for p in pictures]}))


def mend_images(writer: StoreWriter, folder: Path) -> None:
    """Make every part of the images table again that is listed and not there, and the other way
    round. The caller holds the lock. Raises ImagesError where an image of a lost part is gone."""
    home = writer.path / "images"
    listed, there = ({file.stem for file in home.glob(f"*.{kind}")} for kind in ("json", "parquet"))
    for part in sorted(listed - there):
        rows = json.loads((home / f"{part}.json").read_text())
        _write_part(writer, part, rows, [_again(row, folder) for row in rows])
    for part in sorted(there - listed):
        table = pq.read_table(home / f"{part}.parquet",
                              columns=["image", "path", "folder", "label", "sha256"])
        writer.write_bytes(f"images/{part}.json", json.dumps(table.to_pylist()).encode())


def _again(row: dict, folder: Path) -> Picture:
    """A picture of a lost part, as it was. Raises ImagesError if it is not."""
    source = folder if (folder / row["path"]).exists() else Path(row["folder"])
    found = read_picture(source, row["path"])
    if found.sha256 != row["sha256"]:
        raise ImagesError(f"{source / row['path']} is no longer the image that the store knows by "
                          "that name; restore it or make a new store")
    return found


def _report(skipped: list[str], given: Folder) -> None:
    for line in skipped[:5]:
        say(f"skipped, unreadable: {line}")
    if len(skipped) > 5:
        say(f"skipped, unreadable: and {len(skipped) - 5} more in {given.folder}")


def register_model(writer: StoreWriter, name: str, vit: Vit, **known: object) -> None:
    """Write the model's row and its layers, or check that those there are of the same model.
    `known` are more columns of the row."""
    row = model_row(name, vit) | known
    folder = places.model_folder(writer.path, name).relative_to(writer.path)
    with writer.lock():
        fresh = not (writer.path / folder / "model.parquet").exists()
        if not (writer.path / folder / "layers.parquet").exists():
            writer.write_file(folder / "layers.parquet", to_table("layers", layer_rows(name, vit)))
        if fresh:
            _write_row(writer, name, row)
            return
    there = read_row(writer, name)
    for key in ("weights_sha256", "image_h", "image_w", "family", "preprocessing"):
        if there[key] != row[key]:
            raise ModelError(f"the store already has a model named {name!r} with another {key} "
                             f"({there[key]}, made from {there['spec']}): give this one a --name")


def read_row(writer: StoreWriter, name: str) -> dict:
    """The model's row, as it is now."""
    file = places.model_folder(writer.path, name) / "model.parquet"
    (row,) = pq.read_table(file).to_pylist()
    return row


def complete_row(writer: StoreWriter, name: str, known: dict[str, object]) -> None:
    """Add what has come to be known to the model's row, if it is not what it says."""
    with writer.lock():
        row = read_row(writer, name)
        if row | known != row:
            _write_row(writer, name, row | known)


def _write_row(writer: StoreWriter, name: str, row: dict) -> None:
    file = places.model_folder(writer.path, name) / "model.parquet"
    writer.write_file(file.relative_to(writer.path),
                      to_table("models", {key: [value] for key, value in row.items()}))


def model_row(name: str, vit: Vit) -> dict[str, object]:
    """What is known of a model before it has seen an image; the rest is NULL."""
    anatomy = vit.anatomy
    geometry = anatomy.geometry
    return dict.fromkeys(TABLES["models"].arrow.names) | {
        "model": name, "spec": vit.spec.absolute, "family": anatomy.family,
        "layers": anatomy.depth, "heads": max(anatomy.heads), "grid_h": geometry.grid_h,
        "grid_w": geometry.grid_w, "patch": anatomy.patch, "image_h": anatomy.image[0],
        "image_w": anatomy.image[1], "prefix_tokens": geometry.prefix,
        "class_token": geometry.class_token, "registers": geometry.registers,
        "parameters": sum(p.numel() for p in vit.model.parameters()),
        "weights_sha256": vit.weights_sha256,
        "preprocessing": json.dumps(vit.preprocessing, sort_keys=True),
        "versions": json.dumps(_versions(vit)),
    }


def layer_rows(name: str, vit: Vit) -> dict[str, object]:
    """The columns of `layers`: every block's geometry."""
    shapes = [layer.geometry for layer in vit.anatomy.layers]
    return {
        "model": [name] * len(shapes), "layer": list(range(len(shapes))),
        "heads": list(vit.anatomy.heads),
        "grid_h": [shape.grid_h for shape in shapes], "grid_w": [shape.grid_w for shape in shapes],
        "prefix_tokens": [shape.prefix for shape in shapes],
        "class_token": [shape.class_token for shape in shapes],
        "class_query": [shape.class_query for shape in shapes],
        **{f"{end}_{axis}": [shape.windows and getattr(shape.windows, name) for shape in shapes]
           for end, axis, name in (("window", "h", "height"), ("window", "w", "width"),
                                   ("shift", "h", "shift_h"), ("shift", "w", "shift_w"))},
        "places": [_places(shape) for shape in shapes]}


def _places(shape: Geometry) -> list[int] | None:
    numbers = layout_of(shape).numbers
    return None if numbers is None else numbers.flatten().tolist()


def _versions(vit: Vit) -> dict[str, str]:
    packages = ("headatlas", "torch", "timm", "scikit-learn", "numpy", "pillow")
    return {"python": platform.python_version(), "device": vit.device.type,
            **{package: version(package) for package in packages}}
