"""`head_series`: every measure of a head over all images in one row, for the page to filter.

It is made from the store's own rows, block by block, so that memory holds one model's lists and no
rows of images beside those of one block.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from precompute.freshness import MADE_FROM, digest, read_note
from precompute.progress import Progress, say
from precompute.space.atlas import Atlas
from store import places
from store.reader import Store
from store.schema import IMPORTANCE, STRENGTH, TABLES
from store.series_tables import BOUNDS, CELL_COLUMNS, CELLS, MOST_IMAGES, NOWHERE, PLACES
from store.writer import StoreWriter, to_table

_READ = ("images", "layers", "head_scores", "head_strength", "head_patterns")


def line_up(writer: StoreWriter) -> None:
    """Make `head_series` of every model where it is not of what the store holds now."""
    with writer.lock("series"):
        atlas = Atlas(writer)
        stale = [model for model in atlas.models if _note(atlas, model) != _made_from(atlas, model)]
        if not stale:
            return
        count = _images(atlas.store("images"))
        if count > MOST_IMAGES:
            say(f"series: {count:,} images are more than {MOST_IMAGES:,}: left out; the page "
                "answers filters of images from the rows of all images, which takes longer")
            return
        with Progress("series: lining up", len(stale), "models") as progress:
            for model in stale:
                write_series(writer, model)
                progress.advance(1)


def write_series(writer: StoreWriter, model: str) -> None:
    """Write `model_series` and `head_series` of a model. Raises StoreError where its rows cannot be
    read."""
    atlas = Atlas(writer)
    made_from = {MADE_FROM: _made_from(atlas, model)}
    store = Store(writer.path, tables=_READ, model=model)
    heads = series(store, atlas.rows)
    for name, rows in (("model_series", means(heads)), ("head_series", heads)):
        writer.write_file(atlas.file(name, model).relative_to(writer.path),
                          rows.replace_schema_metadata(made_from), TABLES[name])


def _note(atlas: Atlas, model: str) -> bytes | None:
    return read_note(atlas.file("head_series", model))


def _made_from(atlas: Atlas, model: str) -> bytes:
    """A short name for the model's units, how many images there are, and its places in the maps."""
    placed = [file.stem for file in places.files_of(atlas.path, "head_patterns", model)]
    return digest([*places.done_units(atlas.path, model, "heads"), *places.parts_of(atlas.path),
                   str(atlas.ids), *placed])


def _images(store: Store) -> int:
    """How many numbers of images there are: they count from 0."""
    (row,) = store.query("SELECT coalesce(max(image) + 1, 0) AS n FROM images").to_pylist()
    return row["n"]


def series(store: Store, spaces: Mapping[str, dict]) -> pa.Table:
    """Rows of `head_series` of the one model that `store` holds rows of. `spaces`: the rows of
    `pattern_spaces` by kind."""
    blocks = store.query("SELECT layer, heads, model FROM layers ORDER BY layer").to_pylist()
    count = _images(store)
    parts = [_block(store, spaces, row["model"], row["layer"], row["heads"], count)
             for row in blocks]
    return pa.concat_tables(parts).combine_chunks()


def means(heads: pa.Table) -> pa.Table:
    """The row of `model_series` that these rows of `head_series` make."""
    count, hops = heads["images"][0].as_py(), max(heads["hops"].to_pylist())
    sums, known = (np.zeros((count, hops)) for _ in range(2))
    for one, own in zip(heads["hop_strength"], heads["hops"].to_pylist(), strict=True):
        profile = one.values.to_numpy(zero_copy_only=False).reshape(count, own)
        there = np.isfinite(profile)
        sums[:, :own] += np.where(there, profile, 0)
        known[:, :own] += there
    mean = np.full_like(sums, np.nan)
    np.divide(sums, known, out=mean, where=known > 0)
    return to_table("model_series", {
        "model": heads["model"][:1].combine_chunks(), "images": [count], "hops": [hops],
        "hop_strength": _lists(mean[None].astype(np.float32))})


def _block(store: Store, spaces: Mapping[str, dict], model: str, layer: int, heads: int, count: int
           ) -> pa.Table:
    lists: dict[str, np.ndarray | None] = {
             **_measures(store, "head_scores", [c.name for c in IMPORTANCE], layer, heads, count,
                         "AND ablation = 'zero'"),
             **_measures(store, "head_strength", [c.name for c in STRENGTH], layer, heads, count)}
    hops, profile = _hops(store, layer, heads, count)
    for (kind, space), name in CELL_COLUMNS.items():
        lists[name] = _cells(store, spaces[kind][BOUNDS[space]], kind, space, layer, heads, count) \
            if kind in spaces else None
    return to_table("head_series", {
        "model": [model] * heads, "layer": [layer] * heads, "head": list(range(heads)),
        "images": [count] * heads, "hops": [hops] * heads, "hop_strength": _lists(profile),
        **{name: [None] * heads if values is None else _lists(values)
           for name, values in lists.items()}})


def _lists(values: np.ndarray) -> pa.Array:
    """[head, ...] as a list for each head."""
    flat = values.reshape(len(values), -1)
    offsets = np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(
        flat.ravel(), from_pandas=True))


def _measures(store: Store, table: str, names: list[str], layer: int, heads: int, count: int,
              also: str = "") -> dict[str, np.ndarray]:
    """float32[head, image] of each measure; NaN where there is none."""
    columns = ", ".join(f"{name}::FLOAT AS {name}" for name in names)
    rows = store.query(f"SELECT image, head, {columns} FROM {table} WHERE layer = $layer {also}",
                       {"layer": layer})
    place = _place(rows)
    found = {}
    for name in names:
        values = np.full((heads, count), np.nan, np.float32)
        values[place] = rows[name].to_numpy(zero_copy_only=False)
        found[name] = np.where(np.isfinite(values), values, np.float32(np.nan))
    return found


def _place(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return rows["head"].to_numpy(), rows["image"].to_numpy()


def _hops(store: Store, layer: int, heads: int, count: int) -> tuple[int, np.ndarray]:
    """K, and float32[head, image, K]."""
    rows = store.query("SELECT image, head, hop_strength FROM head_strength WHERE layer = $layer "
                       "AND hop_strength IS NOT NULL", {"layer": layer})
    flat = rows["hop_strength"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    hops = len(flat) // rows.num_rows if rows.num_rows else 0
    values = np.full((heads, count, hops), np.nan, np.float32)
    values[_place(rows)] = flat.reshape(rows.num_rows, hops)
    return hops, values


def _cells(store: Store, bounds: list[float], kind: str, space: str, layer: int, heads: int,
           count: int) -> np.ndarray:
    """uint16[head, image]: cells of the map."""
    x, y = PLACES[space]
    rows = store.query(f"SELECT image, head, {x} AS x, {y} AS y FROM head_patterns WHERE "
                       f"layer = $layer AND kind = $kind AND {x} IS NOT NULL",
                       {"layer": layer, "kind": kind})
    cells = np.full((heads, count), NOWHERE, np.uint16)
    i, j = (_along(rows[axis].to_numpy(), *ends) for axis, ends in (
        ("x", bounds[:2]), ("y", bounds[2:])))
    cells[_place(rows)] = CELLS * i + j
    return cells


def _along(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """int[n]: which of the cells from low to high, the outermost for what lies outside."""
    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.clip(np.floor(share * CELLS), 0, CELLS - 1).astype(int)
