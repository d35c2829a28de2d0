"""One view of a Vision Transformer for every timm family: where its heads can be seen and changed.

The input of an attention's `norm` (where heads are normalised together) or else `proj` holds the
heads' outputs side by side, before anything mixes them: that is the *site*. Whatever is done to a
head is a change of its slice there, so one description serves every ablation and every family
whose blocks have such a site. The input of `attn_drop` is the attention itself, but only on the
path without fused attention.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from store.errors import ModelError

Model = Any
"""A timm model or one of its blocks, known by its attributes, which torch cannot type."""

COPIES = 6
"""Of one block's attention that are in memory at once while its measures are taken."""


@dataclass(frozen=True)
class Geometry:
    """Tokens: `prefix` first (the class token, if any, at 0), then a grid of patches by rows."""

    grid_h: int
    grid_w: int
    prefix: int
    class_token: bool

    @property
    def patches(self) -> int:
        return self.grid_h * self.grid_w

    @property
    def registers(self) -> int:
        """Prefix tokens other than the class token."""
        return self.prefix - int(self.class_token)


@dataclass(frozen=True)
class Anatomy:
    """`heads[l]` heads in block l. `plain`: timm's own pre-norm blocks and attention, which may be
    taken apart; `class_row`: moreover nothing but the class token is read after the last block."""

    family: str
    blocks: tuple[Model, ...]
    heads: tuple[int, ...]
    geometry: Geometry
    image: tuple[int, int]
    patch: int
    plain: bool
    class_row: bool

    @property
    def layers(self) -> int:
        return len(self.blocks)

    def site(self, layer: int) -> nn.Module:
        """The module whose input holds block `layer`'s heads side by side, not yet mixed."""
        attention = self.blocks[layer].attn
        return attention.norm if isinstance(getattr(attention, "norm", None), nn.Module) \
            else attention.proj


def dissect(model: Model, spec: str, input_size: tuple[int, int, int]) -> Anatomy:
    """Find the parts. Raises ModelError, saying why, for models whose heads cannot be ablated."""
    family = type(model).__name__
    blocks = _blocks(model, spec, family)
    patch_h, patch_w = _patch_size(model, spec)
    _, height, width = input_size
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    geometry = Geometry(height // patch_h, width // patch_w, prefix, _has_class_token(model))
    plain = all(type(b) is Block and type(b.attn) is Attention and b.attn.gate is None
                for b in blocks)
    _check_memory(spec, height, width, geometry, max(int(b.attn.num_heads) for b in blocks))
    return Anatomy(family, blocks, tuple(int(b.attn.num_heads) for b in blocks), geometry,
                   (height, width), patch_h, plain,
                   plain and type(model) is VisionTransformer and model.global_pool == "token"
                   and model.attn_pool is None)


def _blocks(model: Model, spec: str, family: str) -> tuple[Model, ...]:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)) or not len(blocks):
        raise ModelError(f"model {spec!r} ({family}) has no sequence of transformer blocks over "
                         "one token grid; windowed, staged and convolutional models are not "
                         "supported")
    for i, block in enumerate(blocks):
        attention = getattr(block, "attn", None)
        wants = ("num_heads", "proj", "attn_drop")
        missing = [name for name in wants if not hasattr(attention, name)]
        if attention is None or missing:
            raise ModelError(f"model {spec!r} ({family}): block {i} has no softmax self-attention "
                             "whose heads can be told apart"
                             + (f" (no {', '.join(missing)})" if attention is not None else ""))
    return tuple(blocks)


def _check_memory(spec: str, height: int, width: int, geometry: Geometry, heads: int) -> None:
    """One image's attention, with the copies its measures need, must fit into the machine."""
    tokens = geometry.prefix + geometry.patches
    needed = COPIES * 4 * heads * tokens ** 2
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ModelError(f"model {spec!r} at {height}x{width} pixels has {tokens:,} tokens: its "
                         f"attention needs about {needed / 1e9:,.0f} GB, this machine has "
                         f"{there / 1e9:,.0f} GB; choose a smaller --image-size")


def _patch_size(model: Model, spec: str) -> tuple[int, int]:
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        raise ModelError(f"model {spec!r} ({type(model).__name__}) has no grid of patches")
    if not isinstance(size, (tuple, list)):
        size = (size, size)
    stem = getattr(model.patch_embed, "backbone", None)
    if stem is not None:  # hybrids: the patch is counted on the stem's feature map
        grid = model.patch_embed.grid_size
        height, width = model.patch_embed.img_size
        return height // grid[0], width // grid[1]
    return int(size[0]), int(size[1])


def _has_class_token(model: Model) -> bool:
    return getattr(model, "cls_token", None) is not None and \
        int(getattr(model, "num_prefix_tokens", 0)) > 0
