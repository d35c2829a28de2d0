"""Direct logit attribution: what each head adds to the logit itself, past all later layers.

The tokens after the last block are a sum: embedding + what heads add + projection biases + MLPs.
With the scale of the final norms frozen at the clean pass, the logit is linear in them, so the
heads' shares, the other parts' and a constant add up to it (tests/precompute/test_attribution.py).
Source: Elhage et al. 2021.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block, ParallelScalingBlock, ParallelThingsBlock
from timm.models.vision_transformer_relpos import RelPosBlock
from torch import Tensor, nn

from precompute.anatomy import Anatomy, Attention, Layer, Model
from precompute.clean import CleanPass

Directions = Float[Tensor, "image token dim"]

ADDS_ATTENTION = (Block, RelPosBlock, BeitBlock, EvaBlock, ParallelScalingBlock,
                  ParallelThingsBlock)
"""Blocks that add their attention's output, scaled by at most a vector, to the residual stream."""


@torch.no_grad()
def logit_directions(model: Model, anatomy: Anatomy, clean: CleanPass,
                     rows: Float[Tensor, "image embedding"] | None) -> Directions | None:
    """The linear part of the logit as a function of the tokens after the last block, with the
    scale of the final norm frozen at the clean pass: logit = sum over tokens and dims + constant.

    None where the readout is not that: other pooling than the class token or the patches' mean,
    other norms than LayerNorm, a head that is not linear, more than blocks over one grid.
    """
    if rows is None or not _adds_up(model, anatomy):
        return None
    norms = (model.norm, getattr(model, "fc_norm", nn.Identity()))
    pooling = getattr(model, "global_pool", None)
    known = all(type(n) is nn.Identity or isinstance(n, nn.LayerNorm) for n in norms)
    plain_pool = getattr(model, "attn_pool", None) is None and pooling in ("token", "avg")
    if not known or not plain_pool or hasattr(model, "dist_token"):
        return None
    tokens = clean.calls[-1].output
    weights = tokens.new_zeros(tokens.shape[1])
    if pooling == "token":
        weights[0] = 1
    else:
        first = 0 if getattr(model, "pool_include_prefix", False) else anatomy.geometry.prefix
        weights[first:] = 1 / (tokens.shape[1] - first)
    pooled = torch.einsum("t,bte->be", weights, model.norm(tokens))
    outer = _through_norm(norms[1], pooled, rows)
    spread = weights[None, :, None] * outer[:, None]
    return _through_norm(norms[0], tokens, spread)


@torch.no_grad()
def direct_logits(anatomy: Anatomy, clean: CleanPass, layer: int, directions: Directions | None,
                  ) -> Float[Tensor, "image head"] | None:
    """Each head's own addition to the logit; None where it is not linear (see above), or where
    the block does more to its heads than to project, scale and (with its scale frozen) norm."""
    found = anatomy.layers[layer]
    if directions is None or not all(_is_linear(a) for a in found.attentions):
        return None
    shares = clean.calls[layer].heads.split([a.dim for a in found.attentions], dim=-1)
    return torch.cat([_of_attention(found, number, attention, share, directions)
                      for number, (attention, share)
                      in enumerate(zip(found.attentions, shares, strict=True))], dim=-1)


def _is_linear(attention: Attention) -> bool:
    """Whether, with the scale of its norm frozen, its output is linear in its heads."""
    known = isinstance(attention.site, (nn.Identity, nn.LayerNorm))
    return getattr(attention.module, "gate", None) is None \
        and (known or attention.site is attention.proj)


def _of_attention(layer: Layer, number: int, attention: Attention, heads: Tensor,
                  directions: Directions) -> Float[Tensor, "image head"]:
    scale = residual_scale(layer.block, number)
    scaled = directions if scale is None else directions * scale
    pulled = scaled @ attention.proj.weight[:, :attention.dim]
    pulled = _through_norm(attention.site, heads, pulled)
    return (pulled * heads).unflatten(-1, (attention.heads, -1)).sum((1, 3))


def residual_scale(block: Model, attention: int = 0) -> Float[Tensor, dim] | None:
    """The LayerScale between an attention's output and the residual stream, if there is one."""
    if type(block) is ParallelThingsBlock:
        return getattr(block.attns[attention].ls, "gamma", None)
    if type(block) is ParallelScalingBlock:
        return getattr(block.ls, "gamma", None)
    if hasattr(block, "ls1"):
        return getattr(block.ls1, "gamma", None)
    return block.gamma_1


def _adds_up(model: Model, anatomy: Anatomy) -> bool:
    """Whether all layers add to one stream of tokens that the readout sees."""
    blocks = getattr(model, "blocks", None)
    return blocks is not None and len(blocks) == anatomy.depth \
        and all(type(layer.block) in ADDS_ATTENTION for layer in anatomy.layers)


def _through_norm(norm: nn.Module, inputs: Float[Tensor, "*rest dim"],
                  direction: Float[Tensor, "*rest dim"]) -> Float[Tensor, "*rest dim"]:
    """Pull a direction back through a LayerNorm whose scale is frozen at these inputs."""
    if not isinstance(norm, nn.LayerNorm):
        return direction
    scaled = direction * norm.weight if norm.weight is not None else direction
    scale = (inputs.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    return (scaled - scaled.mean(-1, keepdim=True)) / scale
