"""How far and where a head looks: pure functions of one block's attention.

Each entry of STRENGTH computes the columns of `head_strength` that it names; formulas, units and
sources stand in `store.schema`. Undefined values are NaN here and NULL in the store.

Attention in windows has its hops inside a window, and its other distances on the whole grid. What
asks are the patches of all windows, never the padding; weight on padding is in no hop and goes no
distance, like weight on prefix tokens. Where the class token alone asks there is no patch query,
and every mean over patch queries is undefined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precompute.anatomy import Geometry
from precompute.clean import Weights
from precompute.windows import layout_of, window_of

PerHead = Float[Tensor, "image head"]
Profile = Float[Tensor, "image head hop"]


@dataclass(frozen=True)
class Looking:
    """One block's attention with what several measures share.

    `patches` are the weights between patches, 0 where either is padding; `offsets[dy, dx]` their
    sum over all query patches by relative offset, from -(side-1) to side-1 in both directions,
    `side` being that of the window, or of the grid where all patches see all.
    """

    attention: Weights
    geometry: Geometry
    patches: Float[Tensor, "image window head patch_query patch_key"]
    offsets: Float[Tensor, "image head dy dx"]

    @cached_property
    def on_patches(self) -> Float[Tensor, "image window head patch_query"]:
        """Each query's weight on patches; 1 for padding, which may then be divided by it."""
        real = layout_of(self.geometry).real
        weight = self.patches.sum(-1)
        return weight if real is None else weight.where(real.to(weight.device)[:, None], 1)

    @cached_property
    def entropy(self) -> Float[Tensor, "image window head patch_query"]:
        """-sum w ln w of each query's weights on patches, as they are."""
        return _entropy(self.patches)

    @property
    def elsewhere(self) -> Float[Tensor, "image window head patch_query other_key"]:
        """The patches' weights on what is no patch: prefix tokens, or the padding of windows."""
        if layout_of(self.geometry).real is not None:
            return self.attention - self.patches
        return self.attention[..., self.geometry.prefix:, :self.geometry.prefix]

    @cached_property
    def reach(self) -> Float[Tensor, "image window head patch_query"]:
        """Each query's sum of weight times distance."""
        far = layout_of(self.geometry).far.to(self.patches)
        return torch.einsum("iwhqk,wqk->iwhq", self.patches, far)


def look(attention: Weights, geometry: Geometry) -> Looking:
    """Prepare one block's attention for the measures."""
    first, layout = geometry.prefix, layout_of(geometry)
    patches = attention[..., first:, first:]
    if layout.real is not None:
        patches = patches * (layout.real[:, :, None] & layout.real[:, None]).to(patches)[:, None]
    return Looking(attention, geometry, patches, offsets_of(patches, geometry))


def offset_sums(patches: Float[Tensor, "image head patch_query patch_key"], grid_h: int,
                grid_w: int) -> Float[Tensor, "image head dy dx"]:
    """Sum the weights by relative offset (key minus query), exactly, without a gather.

    All queries of one row of patches see the keys' rows at the same offsets, so their weights are
    added as one slice; the same again for the columns of what is left.
    """
    by_axes = patches.unflatten(-1, (grid_h, grid_w)).unflatten(-3, (grid_h, grid_w))
    down = patches.new_zeros(*patches.shape[:2], grid_w, 2 * grid_h - 1, grid_w)
    for row in range(grid_h):
        down[..., grid_h - 1 - row:2 * grid_h - 1 - row, :] += by_axes[:, :, row]
    out = patches.new_zeros(*patches.shape[:2], 2 * grid_h - 1, 2 * grid_w - 1)
    for column in range(grid_w):
        out[..., grid_w - 1 - column:2 * grid_w - 1 - column] += down[:, :, column]
    return out


def hop_mass(looking: Looking) -> Profile:
    queries = int(layout_of(looking.geometry).queries.sum())
    return _by_hop(looking.offsets, looking.geometry) / queries


def hop_strength(looking: Looking) -> Profile:
    pairs = _pairs_by_hop(looking.geometry).to(looking.offsets)
    return _by_hop(looking.offsets, looking.geometry) / pairs


def hop_entropy(looking: Looking) -> PerHead:
    """Over the hops at which there are pairs."""
    strength = hop_strength(looking)
    total = strength.nansum(-1)
    entropy = torch.special.entr(strength / total[..., None]).nansum(-1)
    return torch.where(total > 0, entropy, torch.nan)


def row_entropy(looking: Looking) -> PerHead:
    return _over_queries(looking, looking.entropy + _entropy(looking.elsewhere))


def distance(looking: Looking) -> PerHead:
    return _over_queries(looking, looking.reach)


def distance_renormalised(looking: Looking) -> PerHead:
    return _over_queries(looking, looking.reach / looking.on_patches)


def cls_to_patch(looking: Looking) -> PerHead:
    return _of_class(looking, lambda a: a[:, 0, :, 0, looking.geometry.prefix:].sum(-1))


def cls_self(looking: Looking) -> PerHead:
    return _of_class(looking, lambda a: a[:, 0, :, 0, 0])


def patch_to_cls(looking: Looking) -> PerHead:
    return _of_class(looking, lambda a: a[:, 0, :, looking.geometry.prefix:, 0].mean(-1))


def patch_self(looking: Looking) -> PerHead:
    return _over_queries(looking, looking.patches.diagonal(dim1=-2, dim2=-1))


def prefix_share(looking: Looking) -> PerHead:
    first = looking.geometry.prefix
    return _over_queries(looking, looking.attention[..., first:, :first].sum(-1))


def register_share(looking: Looking) -> PerHead:
    geometry = looking.geometry
    if not geometry.registers:
        return _undefined(looking)
    others = looking.attention[..., geometry.prefix:, int(geometry.class_token):geometry.prefix]
    return _over_queries(looking, others.sum(-1))


def nmi(looking: Looking) -> PerHead:
    """Queries are equally likely, p(q) = 1/N, and p(k|q) is the row over patches scaled to 1.

    Each window is one space of positions, also where a shift has brought together regions that do
    not see each other: there a query's region tells where its keys are, and counts as information.
    The mean over windows, by their queries, leaves out those in which it is undefined.
    """
    weight = looking.on_patches
    queries = layout_of(looking.geometry).queries.to(weight)[:, None]
    keys = ((1 / weight)[..., None, :] @ looking.patches)[..., 0, :] / queries[..., None]
    of_keys = _entropy(keys)
    given_query = (looking.entropy / weight + weight.log()).sum(-1) / queries
    norm = (queries.log() * of_keys).sqrt()
    defined = norm > 1e-6
    shared = torch.where(defined, (of_keys - given_query).clamp_min(0) / norm, 0)
    counted = queries * defined
    return (shared * counted).sum(1) / counted.sum(1)


def sink(looking: Looking) -> PerHead:
    """N is the number of a window's patches, and its share in the mean over windows."""
    queries = layout_of(looking.geometry).queries.to(looking.patches)
    largest = looking.patches.sum(-2).amax(-1)
    return (largest * (queries / queries.sum())[:, None]).sum(1)


def confidence(looking: Looking) -> PerHead:
    return _over_queries(looking, looking.attention.amax(-1))


STRENGTH: dict[str, Callable[[Looking], Tensor]] = {f.__name__: f for f in (
    hop_entropy, row_entropy, distance, distance_renormalised, cls_to_patch, cls_self,
    patch_to_cls, patch_self, prefix_share, register_share, nmi, sink, hop_strength, hop_mass)}


def _over_queries(looking: Looking, values: Float[Tensor, "image window head query"]) -> PerHead:
    """Mean over the queries of all windows that are no padding."""
    flat, real = values.movedim(1, 2).flatten(2), layout_of(looking.geometry).real
    return (flat if real is None else flat[..., real.flatten().to(flat.device)]).mean(-1)


def _of_class(looking: Looking, read: Callable[[Weights], PerHead]) -> PerHead:
    return read(looking.attention) if looking.geometry.class_token else _undefined(looking)


def _undefined(looking: Looking) -> PerHead:
    return torch.full_like(looking.offsets[..., 0, 0], torch.nan)


def _entropy(weights: Float[Tensor, "*rest key"]) -> Float[Tensor, "*rest"]:
    """-sum p ln p; torch.special.entr is the same, seven times slower on a CPU."""
    tiny = torch.finfo(weights.dtype).tiny
    return -weights.clamp_min(tiny).log_().mul_(weights).sum(-1)


def offsets_of(patches: Float[Tensor, "image window head patch_query patch_key"],
             geometry: Geometry) -> Float[Tensor, "image head dy dx"]:
    """Of the pairs that have a hop, all windows together."""
    side, layout = window_of(geometry), layout_of(geometry)
    if geometry.class_query:
        return patches.new_zeros(len(patches), patches.shape[2], 2 * side.height - 1,
                                 2 * side.width - 1)
    if layout.pairs is not None:
        patches = patches * layout.pairs.to(patches)[:, None]
    together = patches.squeeze(1) if patches.shape[1] == 1 else patches.sum(1)
    return offset_sums(together, side.height, side.width)


def _by_hop(offsets: Float[Tensor, "image head dy dx"], geometry: Geometry) -> Profile:
    hops = _hops(geometry).to(offsets.device)
    out = offsets.new_zeros(*offsets.shape[:2], int(hops.max()) + 1)
    return out.index_add_(-1, hops.flatten(), offsets.flatten(-2))


@lru_cache(maxsize=64)
def _hops(geometry: Geometry) -> Int[Tensor, "dy dx"]:
    """Chebyshev distance of every relative offset."""
    side = window_of(geometry)
    down = torch.arange(1 - side.height, side.height).abs()
    right = torch.arange(1 - side.width, side.width).abs()
    return torch.maximum(down[:, None], right[None, :])


@lru_cache(maxsize=64)
def _pairs_by_hop(geometry: Geometry) -> Float[Tensor, hop]:
    """How many ordered patch pairs lie at every hop distance."""
    everything = torch.ones_like(layout_of(geometry).far)
    return _by_hop(offsets_of(everything[None, :, None], geometry), geometry)[0, 0]
