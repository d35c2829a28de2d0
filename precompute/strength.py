"""How far and where a head looks: pure functions of one block's attention.

Each entry of STRENGTH computes the columns of `head_strength` that it names; formulas, units and
sources stand in `store.schema`. Undefined values are NaN here and NULL in the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precompute.anatomy import Geometry

Attention = Float[Tensor, "image head query key"]
PerHead = Float[Tensor, "image head"]
Profile = Float[Tensor, "image head hop"]


@dataclass(frozen=True)
class Looking:
    """One block's attention with what several measures share.

    `patches` are the weights between patches, `offsets[dy, dx]` their sum over all query patches
    by relative offset, from -(grid-1) to grid-1 in both directions.
    """

    attention: Attention
    geometry: Geometry
    patches: Float[Tensor, "image head patch_query patch_key"]
    offsets: Float[Tensor, "image head dy dx"]


def look(attention: Attention, geometry: Geometry) -> Looking:
    """Prepare one block's attention for the measures."""
    first = geometry.prefix
    patches = attention[..., first:, first:]
    return Looking(attention, geometry, patches,
                   offset_sums(patches, geometry.grid_h, geometry.grid_w))


def offset_sums(patches: Float[Tensor, "image head patch_query patch_key"], grid_h: int,
                grid_w: int) -> Float[Tensor, "image head dy dx"]:
    """Sum the weights by relative offset (key minus query), exactly, without a gather.

    Rows of keys padded in front to 2 side - 1 and read again as rows of 2 side are shifted by one
    more in each row: a column then holds one offset, and what spills over is padding. Done once
    along the grid's columns and once along its rows.
    """
    by_axes = patches.unflatten(-1, (grid_h, grid_w)).unflatten(-3, (grid_h, grid_w))
    columns = _shifted_sum(by_axes.transpose(-3, -2))
    return _shifted_sum(columns.movedim(-1, -3)).transpose(-1, -2)


def _shifted_sum(weights: Float[Tensor, "*rest query key"]) -> Float[Tensor, "*rest offset"]:
    side = weights.shape[-1]
    padded = torch.nn.functional.pad(weights, (side - 1, 0)).flatten(-2)
    shifted = torch.nn.functional.pad(padded, (0, side)).unflatten(-1, (side, 2 * side))
    return shifted[..., :-1].sum(-2)


def hop_mass(looking: Looking) -> Profile:
    return _by_hop(looking.offsets, looking.geometry) / looking.geometry.patches


def hop_strength(looking: Looking) -> Profile:
    pairs = _pairs_by_hop(looking.geometry).to(looking.offsets)
    return _by_hop(looking.offsets, looking.geometry) / pairs


def hop_entropy(looking: Looking) -> PerHead:
    strength = hop_strength(looking)
    return torch.special.entr(strength / strength.sum(-1, keepdim=True)).sum(-1)


def row_entropy(looking: Looking) -> PerHead:
    return torch.special.entr(looking.attention[..., looking.geometry.prefix:, :]).sum(-1).mean(-1)


def distance(looking: Looking) -> PerHead:
    far = _distances(looking.geometry).to(looking.patches)
    return (looking.patches * far).sum(-1).mean(-1)


def distance_renormalised(looking: Looking) -> PerHead:
    far = _distances(looking.geometry).to(looking.patches)
    return ((looking.patches * far).sum(-1) / looking.patches.sum(-1)).mean(-1)


def cls_to_patch(looking: Looking) -> PerHead:
    return _of_class(looking, lambda a: a[..., 0, looking.geometry.prefix:].sum(-1))


def cls_self(looking: Looking) -> PerHead:
    return _of_class(looking, lambda a: a[..., 0, 0])


def patch_to_cls(looking: Looking) -> PerHead:
    return _of_class(looking, lambda a: a[..., looking.geometry.prefix:, 0].mean(-1))


def patch_self(looking: Looking) -> PerHead:
    return looking.patches.diagonal(dim1=-2, dim2=-1).mean(-1)


def prefix_share(looking: Looking) -> PerHead:
    first = looking.geometry.prefix
    return looking.attention[..., first:, :first].sum(-1).mean(-1)


def register_share(looking: Looking) -> PerHead:
    geometry = looking.geometry
    if not geometry.registers:
        return torch.full_like(looking.attention[..., 0, 0], torch.nan)
    others = looking.attention[..., geometry.prefix:, int(geometry.class_token):geometry.prefix]
    return others.sum(-1).mean(-1)


def nmi(looking: Looking) -> PerHead:
    """Queries are equally likely, p(q) = 1/N, and p(k|q) is the row over patches scaled to 1."""
    rows = looking.patches / looking.patches.sum(-1, keepdim=True)
    of_keys = torch.special.entr(rows.mean(-2)).sum(-1)
    given_query = torch.special.entr(rows).sum(-1).mean(-1)
    of_queries = math.log(looking.geometry.patches)
    information = (of_keys - given_query).clamp_min(0)
    norm = (of_queries * of_keys).sqrt()
    return torch.where(norm > 1e-6, information / norm, torch.nan)


def sink(looking: Looking) -> PerHead:
    return looking.geometry.patches * looking.patches.mean(-2).amax(-1)


def confidence(looking: Looking) -> PerHead:
    return looking.attention.amax(-1).mean(-1)


STRENGTH: dict[str, Callable[[Looking], Tensor]] = {f.__name__: f for f in (
    hop_entropy, row_entropy, distance, distance_renormalised, cls_to_patch, cls_self,
    patch_to_cls, patch_self, prefix_share, register_share, nmi, sink, hop_strength, hop_mass)}


def _of_class(looking: Looking, read: Callable[[Attention], PerHead]) -> PerHead:
    if looking.geometry.class_token:
        return read(looking.attention)
    return torch.full_like(looking.attention[..., 0, 0], torch.nan)


def _by_hop(offsets: Float[Tensor, "image head dy dx"], geometry: Geometry) -> Profile:
    hops = _hops(geometry).to(offsets.device)
    out = offsets.new_zeros(*offsets.shape[:2], int(hops.max()) + 1)
    return out.index_add_(-1, hops.flatten(), offsets.flatten(-2))


@lru_cache(maxsize=64)
def _hops(geometry: Geometry) -> Int[Tensor, "dy dx"]:
    """Chebyshev distance of every relative offset."""
    down = torch.arange(1 - geometry.grid_h, geometry.grid_h).abs()
    right = torch.arange(1 - geometry.grid_w, geometry.grid_w).abs()
    return torch.maximum(down[:, None], right[None, :])


@lru_cache(maxsize=64)
def _pairs_by_hop(geometry: Geometry) -> Float[Tensor, hop]:
    """How many ordered patch pairs lie at every hop distance."""
    down = torch.arange(1 - geometry.grid_h, geometry.grid_h).abs()
    right = torch.arange(1 - geometry.grid_w, geometry.grid_w).abs()
    pairs = (geometry.grid_h - down)[:, None] * (geometry.grid_w - right)[None, :]
    return _by_hop(pairs.float()[None, None], geometry)[0, 0]


@lru_cache(maxsize=8)
def _distances(geometry: Geometry) -> Float[Tensor, "patch_query patch_key"]:
    """Distance of patch centres, each axis in fractions of the image's side."""
    rows = torch.arange(geometry.grid_h, dtype=torch.float64) / geometry.grid_h
    columns = torch.arange(geometry.grid_w, dtype=torch.float64) / geometry.grid_w
    places = torch.cartesian_prod(rows, columns)
    return torch.linalg.vector_norm(places[:, None] - places[None, :], dim=-1)
