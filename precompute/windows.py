"""Which patch is where in a layer's attention, and which see each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from precompute.anatomy import Geometry, Windows


@dataclass(frozen=True)
class Layout:
    """Where the patches are in a layer's attention; it depends on nothing but the geometry.

    `queries`: how many patches ask in each window. `numbers`: which patch of the grid is at each
    place of a window, -1 for padding; None without windows. `real`: which places hold a patch, not
    padding; None where all do. `pairs`: which patches of a window have a hop; None where all do.
    `far`: distance of patch centres on the whole grid, each axis in fractions of the image's side.
    """

    queries: Int[Tensor, window]
    numbers: Int[Tensor, "window place"] | None
    real: Bool[Tensor, "window place"] | None
    pairs: Bool[Tensor, "window patch_query patch_key"] | None
    far: Float[Tensor, "window patch_query patch_key"]


@lru_cache(maxsize=16)
def layout_of(geometry: Geometry) -> Layout:
    side = window_of(geometry)
    row, down = _axis(geometry.grid_h, side.height, side.shift_h)
    column, right = _axis(geometry.grid_w, side.width, side.shift_w)
    rows, columns = _partition(row[:, None], column[None, :], side)
    region = torch.stack(_partition(down[:, None], right[None, :], side), dim=-1)
    real = (rows >= 0) & (columns >= 0)
    places = torch.stack([rows.double() / geometry.grid_h, columns.double() / geometry.grid_w], -1)
    if geometry.class_query:
        return Layout(torch.zeros(1, dtype=torch.long), None, None, None,
                      places.new_zeros(1, 0, geometry.patches))
    pairs = None
    if side.shift_h or side.shift_w or not real.all():
        pairs = real[:, :, None] & real[:, None] \
            & (region[:, :, None] == region[:, None]).all(-1)
    numbers = torch.where(real, rows * geometry.grid_w + columns, -1)
    return Layout(real.sum(-1), None if geometry.windows is None else numbers,
                  None if real.all() else real, pairs,
                  torch.linalg.vector_norm(places[:, :, None] - places[:, None], dim=-1))


def window_of(geometry: Geometry) -> Windows:
    """The window; where all patches see all it is the grid."""
    return geometry.windows or Windows(geometry.grid_h, geometry.grid_w)


def _axis(grid: int, window: int, shift: int) -> tuple[Int[Tensor, place], Int[Tensor, place]]:
    """Along one axis of the rolled and padded grid: which patch is there (-1: padding), and the
    region; patches of different regions have no hop.

    timm hides from each other what is on the two sides of `padded - shift`. On a grid of whole
    windows that is where the roll put the first patches behind the last. On a padded grid the two
    differ, and the model lets some patches look across the seam, to the opposite edge: they are
    as far as they are, but their places in the window do not tell, so these pairs have no hop.
    """
    padded = -(-grid // window) * window
    place = torch.arange(padded)
    patch = torch.where(place < grid, (place + shift) % grid, -1)
    rolled = place + shift >= grid
    hidden = place >= padded - shift
    return patch, rolled.long() + hidden.long()


def _partition(down: Int[Tensor, "row 1"], right: Int[Tensor, "1 column"],
               side: Windows) -> tuple[Int[Tensor, "window place"], Int[Tensor, "window place"]]:
    """Both, spread over the padded grid, window by window."""
    first, second = (
        values.unflatten(1, (-1, side.width)).unflatten(0, (-1, side.height))
        .transpose(1, 2).flatten(2).flatten(0, 1)
        for values in torch.broadcast_tensors(down, right))
    return first, second
