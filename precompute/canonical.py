"""Attention on the canonical geometry of `store.canon`, on which heads of any grid can be compared.

All is said of the patches' weights on patches, each query's scaled to sum to 1, so that it does not
matter what else there is to look at: a head that spends two thirds of its weight on the class token
and the rest one patch to the left is one that looks to the left. Windows are small grids of their
own. NaN is what is undefined: where no patch asks, where one has no weight on patches at all, and
the evenness of rows where nobody sees more than one patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precompute.anatomy import Geometry, Windows
from precompute.strength import Looking, offsets_of
from precompute.windows import layout_of, window_of
from store.canon import CLASS, NEAR_SIDE, PATCH

SHRINKAGE = 0.05
"""Pairs, for each query, that a uniform head lends to every offset: far ones have few of their own.
"""

SINKS = 0.03
"""Share of the keys, at least one, that may be sinks."""

Shares = Float[Tensor, "image head share"]
PerHead = Float[Tensor, "image head"]
Rows = Float[Tensor, "image window head patch_query patch_key"]
Kernel = Float[Tensor, "image head dy dx"]


@dataclass(frozen=True)
class _Lens:
    """What of a geometry the canonical view needs.

    `pairs`: how many there are at each offset. `down`, `right`: resample its two axes. `bands`: the
    masses that are sums over offsets. `class_down`, `class_right`: pool the image. `sinks`: how
    much of the keys, largest first, counts as sinks. `log_seen`: ln of how many patches each sees,
    `asks`: each query's share in the mean over those who see more than one.
    """

    pairs: Float[Tensor, "dy dx"]
    down: Float[Tensor, "cell dy"]
    right: Float[Tensor, "cell dx"]
    bands: Float[Tensor, "offset band"]
    class_down: Float[Tensor, "class_cell grid_y"]
    class_right: Float[Tensor, "class_cell grid_x"]
    sinks: Float[Tensor, "window rank"]
    log_seen: Float[Tensor, "window patch_query"]
    asks: Float[Tensor, "window patch_query"]


def canonical(looking: Looking) -> dict[str, Tensor]:
    """One block's columns of `pattern_inputs`: shares (image head share), masses (image head)."""
    found = {"class": class_pattern(looking)}
    if looking.geometry.class_query:
        undefined = torch.full_like(looking.offsets[..., :1, 0], torch.nan)
        return found | {"patch": undefined.expand(-1, -1, PATCH.size),
                        "near": undefined.expand(-1, -1, NEAR_SIDE ** 2),
                        **dict.fromkeys(MASSES, undefined[..., 0])}
    rows = looking.patches / looking.on_patches[..., None]
    offsets = offsets_of(rows, looking.geometry)
    kernel = _kernel(offsets, looking.geometry)
    return found | {"patch": torch.cat([_resampled(kernel, looking.geometry),
                                        _evenness(looking)], dim=-1),
                    "near": _near(kernel), **_masses(rows, offsets, looking.geometry)}


def uniform_masses(geometry: Geometry) -> dict[str, float]:
    """The masses of a head that looks at all the patches it sees alike."""
    sees = _sees(geometry)
    rows = (sees / sees.sum(-1, keepdim=True).clamp_min(1))[None, :, None]
    found = _masses(rows, offsets_of(rows, geometry), geometry)
    return {name: mass.item() for name, mass in found.items()}


def class_pattern(looking: Looking) -> Shares:
    """The class row over the image and its shares; NaN without a class token."""
    geometry, attention = looking.geometry, looking.attention
    if not geometry.class_token:
        return torch.full_like(looking.offsets[..., :1, 0], torch.nan).expand(-1, -1, CLASS.size)
    row, lens = attention[:, 0, :, 0], _lens(geometry)
    patches = row[..., geometry.prefix:]
    weight = patches.sum(-1, keepdim=True)
    image = (patches / weight).unflatten(-1, (geometry.grid_h, geometry.grid_w))
    pooled = lens.class_down.to(image) @ image @ lens.class_right.to(image).T
    return torch.cat([pooled.flatten(-2), weight, row[..., :1],
                      row[..., 1:geometry.prefix].sum(-1, keepdim=True)], dim=-1)


def _kernel(offsets: Kernel, geometry: Geometry) -> Kernel:
    """Mean weight of the pairs at every offset, of which a uniform head has lent some."""
    pairs, queries = _lens(geometry).pairs.to(offsets), int(layout_of(geometry).queries.sum())
    lent = SHRINKAGE * queries
    return (offsets + lent * queries / pairs.sum()) / (pairs + lent)


def _resampled(kernel: Kernel, geometry: Geometry) -> Shares:
    lens = _lens(geometry)
    cells = (lens.down.to(kernel) @ kernel @ lens.right.to(kernel).T).flatten(-2)
    return cells / cells.sum(-1, keepdim=True)


def _near(kernel: Kernel) -> Shares:
    """Its middle, up to two patches away; 0 where the grid does not reach so far."""
    reach = NEAR_SIDE // 2
    wide = torch.nn.functional.pad(kernel, (reach, reach, reach, reach))
    top, left = (side // 2 for side in kernel.shape[-2:])
    return wide[..., top:top + NEAR_SIDE, left:left + NEAR_SIDE].flatten(-2)


def _evenness(looking: Looking) -> Shares:
    """[h, 1 - h]: h the mean entropy of rows, each over ln of how many patches the query sees."""
    lens, weight = _lens(looking.geometry), looking.on_patches
    entropy = looking.entropy / weight + weight.log()
    even = entropy / lens.log_seen.to(entropy)[:, None] * lens.asks.to(entropy)[:, None]
    h = even.sum((1, 3)).clamp(0, 1)
    return torch.stack([h, 1 - h], dim=-1)


def _masses(rows: Rows, offsets: Kernel, geometry: Geometry) -> dict[str, PerHead]:
    bands = (offsets.flatten(-2) @ _lens(geometry).bands.to(offsets)).unbind(-1)
    return dict(zip(MASSES[:-1], bands, strict=True)) | {"sink_mass": _sink_mass(rows, geometry)}


def _sink_mass(rows: Rows, geometry: Geometry) -> PerHead:
    """What the strongest keys get, of each window."""
    counted = _lens(geometry).sinks.to(rows)
    return (rows.sum(-2).topk(counted.shape[-1]).values * counted[:, None]).sum((1, 3))


def _bands(side: Windows) -> dict[str, Bool[Tensor, "dy dx"]]:
    """Which offsets count in each mass. Near is what is up to a seventh of the side away (at least
    one patch), a line what is up to a fourteenth beside it: 2 patches and 1 on a grid of 14 x 14.
    """
    down, right = (torch.arange(1 - n, n).abs() for n in (side.height, side.width))
    down, right = down[:, None], right[None]
    near = (down <= max(1, side.height // 7)) & (right <= max(1, side.width // 7))
    thin_h, thin_w = side.height // 14, side.width // 14
    beside = (down - right).abs() <= min(thin_h, thin_w)
    return {"self_mass": down + right == 0, "local_mass": near,
            "row_mass": (down <= thin_h) & ~near, "column_mass": (right <= thin_w) & ~near,
            "diagonal_mass": beside & ~near}


MASSES = (*_bands(Windows(1, 1)), "sink_mass")


@lru_cache(maxsize=64)
def _lens(geometry: Geometry) -> _Lens:
    layout, side, sees = layout_of(geometry), window_of(geometry), _sees(geometry)
    seen, queries = sees.sum(-1), layout.queries.sum()
    asks = (seen > 1).double()
    bands = torch.stack(list(_bands(side).values()), dim=-1)
    sinks = (SINKS * layout.queries.double()).clamp_min(1)
    rank = torch.arange(int(sinks.max().ceil()))
    return _Lens(
        offsets_of(sees[None, :, None], geometry)[0, 0],
        _resampling(side.height), _resampling(side.width),
        bands.flatten(0, 1).double() / queries,
        _pooling(geometry.grid_h), _pooling(geometry.grid_w),
        (sinks[:, None] - rank).clamp(0, 1) / queries,
        seen.clamp_min(2).log(), asks / asks.sum())


def _sees(geometry: Geometry) -> Float[Tensor, "window patch_query patch_key"]:
    """1 where a patch sees another at an offset, else 0."""
    layout = layout_of(geometry)
    return torch.ones_like(layout.far) if layout.pairs is None else layout.pairs.double()


def _resampling(side: int) -> Float[Tensor, "cell offset"]:
    """Means over the cells of the canonical kernel; the outermost offsets reach to its rim."""
    inner = (torch.arange(1 - side, side - 1).double() + 0.5) / side
    rim = torch.ones(1, dtype=torch.double)
    return _overlap(torch.linspace(-1, 1, PATCH.side + 1, dtype=torch.double),
                    torch.cat([-rim, inner, rim])) * PATCH.side / 2


def _pooling(side: int) -> Float[Tensor, "cell patch"]:
    """The share of every patch that lies in each cell of the canonical image."""
    cells, patches = (torch.linspace(0, 1, n + 1, dtype=torch.double) for n in (CLASS.side, side))
    return _overlap(cells, patches) * side


def _overlap(ours: Float[Tensor, edge], theirs: Float[Tensor, other_edge],
             ) -> Float[Tensor, "interval other_interval"]:
    """Lengths that the intervals between these edges have in common."""
    ends = torch.minimum(ours[1:, None], theirs[None, 1:])
    return (ends - torch.maximum(ours[:-1, None], theirs[None, :-1])).clamp_min(0)
