"""What is done to heads: other values for their slices of the site (see `precompute.anatomy`).

A *source* says what heads would put out instead (nothing, their mean, what another image's would,
what they would under a masked attention); a *cut* says which slices of a layer are taken from it,
a variant each. The engine carries the variants to the embedding and does not care what was done.
A new kind of ablation is one source.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precompute.anatomy import Anatomy, Attention, Geometry, Layer
from precompute.clean import BlockCall, HeadOutputs, Inputs, as_heads, unfused
from store.errors import ModelError
from store.schema import MODES

Variants = Float[Tensor, "variant image token heads_dim"]


def one_each(heads: HeadOutputs, other: HeadOutputs, layer: Layer, chosen: range) -> Variants:
    """A variant for each chosen head: its own slice from `other`."""
    variants = heads.unsqueeze(0).repeat(len(chosen), 1, 1, 1)
    for row, head in enumerate(chosen):
        variants[row][..., slice_of(layer, head)] = other[..., slice_of(layer, head)]
    return variants


def all_but_one(heads: HeadOutputs, other: HeadOutputs, layer: Layer, chosen: range) -> Variants:
    """A variant for each chosen head: every slice from `other` but its own."""
    return one_each(other, heads, layer, chosen)


def slice_of(layer: Layer, head: int) -> slice:
    """Where a head's outputs lie in the site, attentions side by side."""
    start, left = 0, head
    for attention in layer.attentions:
        if left < attention.heads:
            return slice(start + left * attention.width, start + (left + 1) * attention.width)
        start, left = start + attention.dim, left - attention.heads
    raise ValueError(f"no head {head} among {layer.heads}")


def zero(heads: HeadOutputs) -> HeadOutputs:
    """Nothing comes out of the heads (the paper's pruning)."""
    return torch.zeros_like(heads)


@torch.no_grad()
def masked(layer: Layer, call: BlockCall, mode: str) -> HeadOutputs | None:
    """What the heads put out where the mode's part of their attention is set to 0 after the
    softmax; None for a mode of a token that the layer lacks.

    The attention modules run again on what they were given, unfused, so this holds for all that
    they do before and after (biases, rotations, talking heads, windows).
    """
    removed = part(layer.geometry, mode)
    if removed is None:
        return None
    images = len(call.heads)
    found = [_under_mask(layer.geometry, attention, inputs, ~removed, images)
             for attention, inputs in zip(layer.attentions, call.inputs, strict=True)]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def _under_mask(geometry: Geometry, attention: Attention, inputs: Inputs,
                kept: Bool[Tensor, "query key"], images: int) -> HeadOutputs:
    heads: list[Tensor] = []

    def mask(_module: object, args: tuple[Tensor]) -> tuple[Tensor]:
        weights = args[0]
        return (weights * kept.to(weights),)

    with ExitStack() as hooks, unfused([attention]):
        hooks.callback(attention.masks.register_forward_pre_hook(mask).remove)
        hooks.callback(attention.site.register_forward_pre_hook(
            lambda _m, args: heads.append(as_heads(attention, args[0], images))).remove)
        attention.module(*inputs.args, **inputs.kwargs)
    if len(heads) != 1:
        raise ModelError(f"an attention ({type(attention.module).__name__}) that is run again "
                         f"shows its heads {len(heads)} times, not once")
    return heads[0]


def part(geometry: Geometry, mode: str) -> Bool[Tensor, "query key"] | None:
    """Which weights a mode of partial pruning removes, for each query and key of a window."""
    _, queries, keys = geometry.attention_shape
    inside = geometry.windows is not None
    key_class, key_patch = _roles(keys, 0 if inside else geometry.prefix, geometry.class_token)
    query_class, query_patch = (key_class, key_patch) if queries == keys else \
        _roles(queries, 1, geometry.class_token)
    row, column = query_class[:, None].expand(queries, keys), key_class.expand(queries, keys)
    among = query_patch[:, None] & key_patch
    diagonal = torch.eye(queries, keys, dtype=torch.bool) & among
    nowhere = torch.zeros(queries, keys, dtype=torch.bool)
    parts = {"none": nowhere, "head": ~nowhere, "patches": among,
             "patch_self": diagonal, "patch_others": among & ~diagonal}
    if geometry.class_token:
        parts |= {"cls": row | column, "cls_patches": row ^ column, "cls_self": row & column,
                  "cls_row": row, "cls_column": column}
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; one of {', '.join(MODES)}")
    return parts.get(mode)


def _roles(tokens: int, prefix: int, class_token: bool) -> tuple[Tensor, Tensor]:
    """Which tokens are the class token, and which are patches."""
    number = torch.arange(tokens)
    return (number == 0) & class_token, number >= prefix


def chunks(anatomy: Anatomy, layer: int, heads: HeadOutputs, tokens: int) -> list[range]:
    """Heads to carry together, about so many tokens at a time."""
    images, length, _ = heads.shape
    count = anatomy.layers[layer].heads
    step = max(1, tokens // (images * length))
    return [range(start, min(start + step, count)) for start in range(0, count, step)]

