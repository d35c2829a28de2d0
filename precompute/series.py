"""The arrays of a model that the page filters by images (see `store.series_tables`).

They are made from the store's own rows, block by block, so that memory holds one model's arrays and
no rows of images beside those of one block.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from precompute.freshness import MADE_FROM, digest
from precompute.partial_series import partial_arrays
from precompute.progress import Progress, say
from precompute.space.atlas import Atlas
from store import places
from store.arrays import opened
from store.bins import Counts
from store.reader import Store
from store.schema import IMPORTANCE, STRENGTH, SUMMARISED
from store.series import Profile
from store.series_tables import (
    BOUNDS,
    CELL_COLUMNS,
    CELLS,
    ERRORS,
    FILE,
    LAYOUT,
    MOST_IMAGES,
    NOWHERE,
    PLACE_COLUMNS,
    PLACES,
)
from store.writer import StoreWriter

_READ = ("images", "layers", "head_scores", "head_strength", "head_patterns", "partial_pruning")


def line_up(writer: StoreWriter) -> None:
    """Make the arrays of every model where they are not of what the store holds now."""
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
    """Write the arrays of a model. Raises StoreError where its rows cannot be read."""
    atlas = Atlas(writer)
    store = Store(writer.path, tables=_READ, model=model)
    arrays = series(store, atlas.rows)
    notes = {_MADE_FROM: _made_from(atlas, model)}
    writer.write_with(_file(atlas, model).relative_to(writer.path),
                      lambda file: save_file(arrays, file, notes))


_MADE_FROM = MADE_FROM.decode()


def _file(atlas: Atlas, model: str) -> Path:
    return places.model_folder(atlas.path, model) / FILE


def _note(atlas: Atlas, model: str) -> str | None:
    with opened(_file(atlas, model)) as arrays:
        return arrays.notes.get(_MADE_FROM) if arrays else None


def _made_from(atlas: Atlas, model: str) -> str:
    """A short name for the model's units, how many images there are, and its places in the maps."""
    placed = [file.stem for file in places.files_of(atlas.path, "head_patterns", model)]
    units = [unit for stage in ("heads", "partial")
             for unit in (stage, *places.done_units(atlas.path, model, stage))]
    return digest([LAYOUT, *units, *places.parts_of(atlas.path), str(atlas.ids), *placed]).decode()


def _images(store: Store) -> int:
    """How many numbers of images there are: they count from 0."""
    (row,) = store.query("SELECT coalesce(max(image) + 1, 0) AS n FROM images").to_pylist()
    return row["n"]


def series(store: Store, spaces: Mapping[str, dict]) -> dict[str, np.ndarray]:
    """The arrays of the one model that `store` holds rows of. `spaces`: the rows of
    `pattern_spaces` by kind."""
    blocks = store.query("SELECT layer, heads FROM layers ORDER BY layer").to_pylist()
    count = _images(store)
    parts = [_block(store, spaces, row["layer"], row["heads"], count) for row in blocks]
    hops = max((part["hop_strength"].shape[1] for part in parts), default=0)
    for part in parts:
        part["hop_strength"] = _padded(part["hop_strength"], hops)
    found = {}
    for name in list(parts[0]):
        found[name] = np.concatenate([part.pop(name) for part in parts])
    for measure in SUMMARISED:
        found |= _counted(measure.name, found[measure.name])
    for name in CELL_COLUMNS.values():
        found[f"{name}.count"] = np.bincount(
            found[name].ravel(), minlength=CELLS * CELLS + 1).astype(np.int32)
    mean = _mean(found["hop_strength"])
    found["hop_strength.spread"] = np.stack([_spread(one) for one in found["hop_strength"]])
    for name in (*PLACE_COLUMNS.values(), *CELL_COLUMNS.values()):
        found[name] = np.ascontiguousarray(found[name].swapaxes(0, 1))
    order = np.argsort(mean, 1, kind="stable").astype(np.uint16)
    return found | {"hop_strength.mean": mean, "hop_strength.order": order} | partial_arrays(
        store, [(row["layer"], row["heads"]) for row in blocks])


def _counted(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """What is counted of a measure, float32[row, image], once and for all."""
    bins, known = Counts.of(values), np.isfinite(values)
    count = known.sum(1)
    mean = values.sum(1, np.float64, where=known) / np.maximum(count, 1)
    apart = np.where(known, values - mean[:, None], 0)
    return {f"{name}.images": np.ascontiguousarray(values.T),
            f"{name}.totals": np.stack([count, mean, np.square(apart).sum(1)]),
            f"{name}.by_image": np.stack([
                np.where(known, values, 0).sum(0, dtype=np.float64), known.sum(0)]),
            f"{name}.bins": bins.counts,
            f"{name}.span": np.array([bins.low, bins.high, bins.k, bins.first])}


def _padded(profile: np.ndarray, hops: int) -> np.ndarray:
    """[head, hop, image] with so many hops, NaN where there is none."""
    return np.pad(profile, ((0, 0), (0, hops - profile.shape[1]), (0, 0)), constant_values=np.nan)


def _mean(profiles: np.ndarray) -> np.ndarray:
    """float32[hop, image]: the mean over rows that have a hop, of [row, hop, image]."""
    sums, known = (np.zeros(profiles.shape[1:]) for _ in range(2))
    for profile in profiles:
        there = np.isfinite(profile)
        sums += np.where(there, profile, 0)
        known += there
    mean = np.full_like(sums, np.nan)
    np.divide(sums, known, out=mean, where=known > 0)
    return mean.astype(np.float32)


def _spread(profile: np.ndarray) -> np.ndarray:
    """float64[hop, 4] of a row's [hop, image], over all images that have all its hops."""
    own = np.isfinite(profile).any(1)
    found = np.full((len(profile), 4), np.nan)
    whole = Profile(profile[own], np.isfinite(profile[own]).all(0), np.empty(0, np.uint16))
    found[own] = whole.spread(np.ones(profile.shape[1], bool))
    return found


def _block(store: Store, spaces: Mapping[str, dict], layer: int, heads: int, count: int
           ) -> dict[str, np.ndarray]:
    """The arrays of one layer's heads."""
    found = {
        **_measures(store, "head_scores", [c.name for c in IMPORTANCE], layer, heads, count,
                    "AND ablation = 'zero'"),
        **_measures(store, "head_strength", [c.name for c in STRENGTH], layer, heads, count)}
    profile = _hops(store, layer, heads, count)
    for (kind, space), name in CELL_COLUMNS.items():
        bounds = spaces[kind][BOUNDS[space]] if kind in spaces else [0.0] * 4
        placed = _placed(store, kind, space, layer, heads, count)
        found[PLACE_COLUMNS[kind, space]] = placed
        found[name] = _cells(placed, bounds)
    numbers = {"layer": layer, "hops": profile.shape[1]}
    return {"head": np.arange(heads, dtype=np.int16), "hop_strength": profile, **found,
            **{name: np.full(heads, number, np.int16) for name, number in numbers.items()}}


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


def _hops(store: Store, layer: int, heads: int, count: int) -> np.ndarray:
    """float32[head, hop, image]."""
    rows = store.query("SELECT image, head, hop_strength FROM head_strength WHERE layer = $layer "
                       "AND hop_strength IS NOT NULL", {"layer": layer})
    flat = rows["hop_strength"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    hops = len(flat) // rows.num_rows if rows.num_rows else 0
    values = np.full((heads, hops, count), np.nan, np.float32)
    head, image = _place(rows)
    values[head, :, image] = flat.reshape(rows.num_rows, hops)
    return values


def _placed(store: Store, kind: str, space: str, layer: int, heads: int, count: int) -> np.ndarray:
    """float32[head, image, 3]: x, y and error of its pattern in the map; NaN where it has none."""
    columns = dict(zip("xye", (*PLACES[space], ERRORS[space]), strict=True))
    asked = ", ".join(f"{column} AS {name}" for name, column in columns.items())
    rows = store.query(f"SELECT image, head, {asked} FROM head_patterns WHERE layer = $layer "
                       f"AND kind = $kind AND {columns['x']} IS NOT NULL",
                       {"layer": layer, "kind": kind})
    found = np.full((heads, count, 3), np.nan, np.float32)
    found[_place(rows)] = np.stack([rows[name].to_numpy(zero_copy_only=False) for name in columns],
                                   -1)
    return found


def _cells(placed: np.ndarray, bounds: list[float]) -> np.ndarray:
    """uint16[head, image]: cells of the map."""
    there = np.isfinite(placed[..., :2]).all(-1)
    cells = np.full(there.shape, NOWHERE, np.uint16)
    i, j = (_along(placed[there, axis], *bounds[2 * axis:2 * axis + 2]) for axis in (0, 1))
    cells[there] = CELLS * i + j
    return cells


def _along(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """int[n]: which of the cells from low to high, the outermost for what lies outside."""
    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.clip(np.floor(share * CELLS), 0, CELLS - 1).astype(int)
