"""Synthetic heads with known patterns, on any grid: their attention as a model would show it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from precompute.anatomy import Geometry
from precompute.canonical import canonical
from precompute.strength import look

GRIDS = ((7, 7), (14, 14), (16, 16))
OBLONG = ((6, 8), (12, 9))

Steps = Float[Tensor, "patch_query patch_key"]
Logits = Float[Tensor, "image patch_query patch_key"]


def geometry_of(grid: tuple[int, int], prefix: int = 1) -> Geometry:
    """A grid where all patches see all; its first prefix token, if any, is the class token."""
    return Geometry(*grid, prefix, prefix > 0)


def steps(grid: tuple[int, int]) -> tuple[Steps, Steps]:
    """How many patches a key is below and right of a query."""
    row = torch.arange(grid[0]).repeat_interleave(grid[1]).double()
    column = torch.arange(grid[1]).repeat(grid[0]).double()
    return row[None] - row[:, None], column[None] - column[:, None]


def _offset(down: int, right: int) -> Callable[[Steps, Steps], Tensor]:
    return lambda dy, dx: (dy == down) & (dx == right)


PATTERNS: dict[str, Callable[[Steps, Steps], Tensor]] = {
    "self": _offset(0, 0),
    "left": _offset(0, -1),
    "right": _offset(0, 1),
    "up": _offset(-1, 0),
    "down": _offset(1, 0),
    "row": lambda dy, dx: dy == 0,
    "column": lambda dy, dx: dx == 0,
    "plus": lambda dy, dx: (dy == 0) | (dx == 0),
    "diagonal": lambda dy, dx: dy.abs() == dx.abs(),
    "local": lambda dy, dx: torch.maximum(dy.abs(), dx.abs()) <= 1,
    "uniform": lambda dy, dx: torch.ones_like(dy, dtype=torch.bool),
}
"""Which keys a query looks at. A query that has none of them looks everywhere."""

RANDOM = ("sink", "random")
"""Patterns that differ from image to image; nothing but the images tells them apart."""


def logits_of(pattern: str, grid: tuple[int, int], images: int, seed: int = 0) -> Logits:
    """1 where the head looks and 0 elsewhere; of `random` heads, normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    patches = grid[0] * grid[1]
    if pattern == "random":
        return torch.randn(images, patches, patches, generator=generator, dtype=torch.double)
    if pattern == "sink":
        found = torch.zeros(images, patches, patches, dtype=torch.double)
        places = torch.randint(patches, (images,), generator=generator)
        found[torch.arange(images), :, places] = 1
        return found
    return PATTERNS[pattern](*steps(grid)).double().expand(images, -1, -1)


def attention_of(pattern: str, grid: tuple[int, int], prefix: int = 1, images: int = 4,
                 strength: float = 0.9, noise: float = 0.3, odds: float = 4.0, seed: int = 0,
                 ) -> Float[Tensor, "image window head query key"]:
    """One head's attention, whose patches spend `strength` of what they spend on patches on where
    they look, give or take, and the rest elsewhere; half as much again on the prefix. `random`
    heads have normal logits of deviation `odds`; class tokens look about evenly."""
    generator = torch.Generator().manual_seed(seed + 1)
    where = logits_of(pattern, grid, images, seed)
    seen = where.clamp(0, 1).sum(-1, keepdim=True)
    others = (where.shape[-1] - seen).clamp_min(1)
    if pattern != "random":
        odds = (strength / (1 - strength) * others / seen.clamp_min(1)).log()
    logits = where * odds + noise * torch.randn(where.shape, generator=generator,
                                                dtype=torch.double)
    patches = logits.softmax(-1)
    if prefix:
        patches = torch.cat([torch.full((*patches.shape[:2], prefix), 0.5 / prefix), patches], -1)
        first = noise * torch.randn(images, prefix, patches.shape[-1], generator=generator,
                                    dtype=torch.double)
        patches = torch.cat([first.softmax(-1), patches / 1.5], dim=1)
    return patches[:, None, None]


def patterns_of(pattern: str, grid: tuple[int, int], **options: object) -> dict[str, Tensor]:
    """The canonical patterns of such a head: each column of `pattern_inputs`, by image."""
    attention = attention_of(pattern, grid, **options)
    prefix = attention.shape[-1] - grid[0] * grid[1]
    return {name: values[:, 0] for name, values in
            canonical(look(attention, geometry_of(grid, prefix))).items()}


def every(*grids: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
    """All patterns on all of these grids."""
    return list(product((*PATTERNS, *RANDOM), grids))
