"""One view of a Vision Transformer for every timm family: where its heads can be seen and changed.

The input of an attention's `norm` (where heads are normalised together) or else of its projection
holds the heads' outputs side by side, before anything mixes them: that is the *site*. Whatever is
done to a head is a change of its slice there, so one description serves every ablation and every
family whose blocks have such a site. The input of `attn_drop` is the attention itself, but only on
the path without fused attention.

What differs between families is said once, in `precompute.families`, as a list of layers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import nn

from store.errors import ModelError

Model = Any
"""A timm model or one of its blocks, known by its attributes, which torch cannot type."""

COPIES = 6
"""Of one block's attention that are in memory at once while its measures are taken."""


@dataclass(frozen=True)
class Windows:
    """Attention inside windows of height x width patches, after the grid was rolled up and left by
    the shifts and padded, below and on the right, to whole windows. Patches that the roll brought
    together from opposite edges do not see each other."""

    height: int
    width: int
    shift_h: int = 0
    shift_w: int = 0


@dataclass(frozen=True)
class Geometry:
    """Tokens: `prefix` first (the class token, if any, at 0), then a grid of patches by rows.

    `windows`: patches attend only within them; None where all see all. `class_query`: the class
    token alone asks, and there is one row of attention.
    """

    grid_h: int
    grid_w: int
    prefix: int
    class_token: bool
    windows: Windows | None = None
    class_query: bool = False

    @property
    def patches(self) -> int:
        return self.grid_h * self.grid_w

    @property
    def tokens(self) -> int:
        return self.prefix + self.patches

    @property
    def registers(self) -> int:
        """Prefix tokens other than the class token."""
        return self.prefix - int(self.class_token)

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """(windows, queries, keys) of one head on one image."""
        if self.windows is None:
            return 1, 1 if self.class_query else self.tokens, self.tokens
        inside = self.windows.height * self.windows.width
        down = -(-self.grid_h // self.windows.height)
        across = -(-self.grid_w // self.windows.width)
        return down * across, inside, inside


@dataclass(frozen=True)
class Attention:
    """One attention module: `heads` of `width` numbers each, side by side at the `site`.

    `shows`: the module whose input is the softmax, `masks`: the one whose input is the attention
    as it meets the values (they differ where heads are mixed in between, and then `shows` has the
    heads last). `switch`: the module whose `fused_attn` hides both. `ends_with_proj`: the module's
    output is its projection of the (normalised) site, and nothing else.
    """

    module: Model
    heads: int
    width: int
    site: nn.Module
    shows: nn.Module
    masks: nn.Module
    switch: nn.Module
    proj: Model
    ends_with_proj: bool

    @property
    def dim(self) -> int:
        return self.heads * self.width


@dataclass(frozen=True)
class Layer:
    """A transformer block with its attentions; their heads are counted through."""

    block: Model
    attentions: tuple[Attention, ...]
    geometry: Geometry

    @property
    def heads(self) -> int:
        return sum(a.heads for a in self.attentions)


@dataclass(frozen=True)
class Anatomy:
    """The layers of a model in the order in which they run.

    `plain`: timm's own pre-norm blocks and attention, which may be taken apart; `class_row`:
    moreover nothing but the class token is read after the last block. `reads_class`: the
    classifier sees the class token of the last block alone.
    """

    family: str
    layers: tuple[Layer, ...]
    geometry: Geometry
    image: tuple[int, int]
    patch: int
    plain: bool
    class_row: bool
    reads_class: bool

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def heads(self) -> tuple[int, ...]:
        """How many heads each layer has."""
        return tuple(layer.heads for layer in self.layers)

    @property
    def attentions(self) -> list[tuple[int, Attention]]:
        """Every attention module with the number of its layer."""
        return [(i, a) for i, layer in enumerate(self.layers) for a in layer.attentions]


def check_memory(spec: str, anatomy: Anatomy) -> None:
    """One image's attention, with the copies its measures need, must fit into the machine."""
    layer = max(anatomy.layers, key=_weights)
    needed = COPIES * 4 * _weights(layer)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        height, width = anatomy.image
        raise ModelError(f"model {spec!r} at {height}x{width} pixels has "
                         f"{layer.geometry.tokens:,} tokens: its attention needs about "
                         f"{needed / 1e9:,.0f} GB, this machine has {there / 1e9:,.0f} GB; "
                         "choose a smaller --image-size")


def _weights(layer: Layer) -> int:
    windows, queries, keys = layer.geometry.attention_shape
    return layer.heads * windows * queries * keys
