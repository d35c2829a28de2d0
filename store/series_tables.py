"""What the page filters by images: every measure of a model as an array, heads x images.

The tables have a row per image and head; a filter of images then touches every row. Of an array
that lies image by image, those that pass are read and added up. A model has one file of arrays,
which holds nothing that its rows do not say:

    layer, head, hops       int16[row]: whose row it is, in order, and how many hops it has
    MEASURE                 float32[row, image], NaN where undefined (zero ablation)
    MEASURE.images          float32[image, row]: the same
    MEASURE.totals          float64[3, row]: over all images, how many are defined, their mean, and
                            the sum of the squares of what is left without it
    MEASURE.by_image        float64[2, image]: sum over the heads, and how many are defined
    MEASURE.bins            int[image, bin]: heads in each bin (`store.bins`)
    MEASURE.span            float64[4]: least and largest value, k and first bin
    hop_strength            float32[row, hop, image]
    hop_strength.mean       float32[hop, image]: over the heads that have a hop
    hop_strength.order      uint16[hop, image]: its images from the least value to the largest
    hop_strength.spread     float64[row, hop, 4]: mean, quartiles and count over all images
    KIND_SPACE_places       float32[image, row, 3]: x, y and error of the head's pattern in the map,
                            NaN where it has none
    KIND_SPACE_map          uint16[image, row]: cell of the head's pattern in the map, CELLS x + y
                            within the space's bounds; NOWHERE where it has none
    KIND_SPACE_map.count    int32[cell]: how many patterns of heads on images are in each

and where the model has partial pruning, [row, mode, image] of its sample of images:

    partial.image           int32[image]: their numbers
    partial.words           text in JSON: "modes" in their order, "classes" by number
    partial.there           bool: whether there is a row
    partial.QUANTITY        float32, NaN where undefined
    partial.listed          bool: whether there is a list of classes
    partial.classes         int32[..., place]: the most probable classes, -1 after the last
    partial.chances         float32[..., place]: their probabilities
"""

from __future__ import annotations

import pyarrow as pa

from store.measures import FLOAT, Column

FILE = "series.safetensors"
"""In a model's folder."""

LAYOUT = "3"
"""Changes when what is above does, so that files of an older layout are made again. What gets
another shape gets another name: who reads an older file finds nothing there, and asks the rows."""

CELLS = 96
"""The pattern maps have so many cells along each axis, within the bounds of their space."""

MOST_IMAGES = 20_000
"""In a larger store, arrays would be longer than a page can hold; it has no series."""

NOWHERE = CELLS * CELLS
"""In place of a cell, where a head has no place in the map."""

CELL_COLUMNS = {(kind, space): f"{kind}_{space}_map"
                for kind in ("patch", "class") for space in ("autoencoder", "pca")}

PLACE_COLUMNS = {(kind, space): f"{kind}_{space}_places" for kind, space in CELL_COLUMNS}

BOUNDS = {"autoencoder": "bounds", "pca": "pca_bounds"}
"""The columns of pattern_spaces that hold the bounds of each space's map."""

PLACES = {"autoencoder": ("x", "y"), "pca": ("pca_x", "pca_y")}
"""Columns of head_patterns and head_places: where a pattern lies in each map."""

ERRORS = {"autoencoder": "error", "pca": "pca_error"}
"""The column of a space's reconstruction errors."""

BOUND_COLUMNS = tuple(
    Column(name, pa.list_(FLOAT), f"x0, x1, y0, y1 of the map of the {space} space: what its "
           "fitted patterns span; patterns outside are in its outermost cells")
    for space, name in BOUNDS.items())
