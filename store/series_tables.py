"""The table that the page filters by images: every measure of a head over all images, in a row.

The other tables have a row per image and head; a filter of images then touches every row. Here a
measure of a head is one list, so that a mean over the images that pass is a product of a matrix
(heads x images) with a vector of zeros and ones. It holds nothing that other tables do not hold.
"""

from __future__ import annotations

import pyarrow as pa

from store.measures import FLOAT, PROFILE, SUMMARISED, Column
from store.table import HEAD, INT, LAYER, MODEL, Table

CELLS = 96
"""The pattern maps have so many cells along each axis, within the bounds of their space."""

MOST_IMAGES = 20_000
"""In a larger store, lists would be longer than a page can hold; it has no series."""

NOWHERE = CELLS * CELLS
"""In place of a cell, where a head has no place in the map."""

CELL_COLUMNS = {(kind, space): f"{kind}_{space}_cells"
                for kind in ("patch", "class") for space in ("autoencoder", "pca")}

HEAD_SERIES = Table(
    "head_series", "one row per model, layer and head: its measures over all images, each in one "
    "list, [i] of image i, NULL where undefined (zero ablation where one is named); written where "
    f"a store has no more than {MOST_IMAGES:,} images", "models/*/head_series.parquet",
    ("model", "layer", "head"), (
        MODEL, LAYER, HEAD,
        Column("images", INT, "how many images the lists are over"),
        Column("hops", INT, "K, how many hops hop_strength has for each image"),
        *(Column(m.name, PROFILE, f"[i]: {m.name} of image i", m.label, m.unit, m.range, m.source,
                 m.important) for m in SUMMARISED),
        Column("hop_strength", PROFILE, "[i K + k]: hop_strength[k] of image i"),
        *(Column(name, pa.list_(pa.uint16()),
                 f"[i]: cell of its {kind} pattern on image i in the map of the {space} space, "
                 f"{CELLS} x + y, x and y from 0 to {CELLS - 1} within the space's bounds; "
                 f"{NOWHERE} where it has none; NULL before the patterns are fitted")
          for (kind, space), name in CELL_COLUMNS.items()),
    ), rows_at_once=1, packed=False)

BOUNDS = {"autoencoder": "bounds", "pca": "pca_bounds"}
"""The columns of pattern_spaces that hold the bounds of each space's map."""

MODEL_SERIES = Table(
    "model_series", "one row per model: means over its heads, image by image; written with "
    "head_series", "models/*/model_series.parquet", ("model",), (
        MODEL,
        Column("images", INT, "how many images the list is over"),
        Column("hops", INT, "K, how many hops hop_strength has for each image"),
        Column("hop_strength", PROFILE, "[i K + k]: hop_strength[k] of image i, mean over the "
               "heads that have a hop k"),
    ), packed=False)

PLACES = {"autoencoder": ("x", "y"), "pca": ("pca_x", "pca_y")}
"""Columns of head_patterns and head_places: where a pattern lies in each map."""

BOUND_COLUMNS = tuple(
    Column(name, pa.list_(FLOAT), f"x0, x1, y0, y1 of the map of the {space} space: what its "
           "fitted patterns span; patterns outside are in its outermost cells")
    for space, name in BOUNDS.items())
