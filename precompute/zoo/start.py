"""Where training starts: local-ish heads from positions and queries, or a resampled model."""

from typing import Any, cast

import torch
from jaxtyping import Float
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

Factor = Float[Tensor, "width dim"]

TEMPERATURE = 30.0  # of the sin-cos bands; timm's 10,000 is nearly constant over 7 patches
GAINS = 0.3, 1.6  # on the queries, from the first head (starts near-global) to the last (local)
DIAGONAL, NOISE = 0.7, 0.7  # W_Qᵀ W_K ≈ NOISE · Z + DIAGONAL · I (Trockman & Kolter 2023)


@torch.no_grad()
def initialise(model: VisionTransformer) -> VisionTransformer:
    """Sin-cos grid positions and mimetic queries and keys: close patches attend to each other."""
    dim = model.embed_dim
    grid = build_sincos2d_pos_embed(
        list(model.patch_embed.grid_size), dim, temperature=TEMPERATURE
    ).reshape(-1, dim)
    positions, blocks = cast(Tensor, model.pos_embed), cast(Any, model.blocks)
    positions.zero_()
    positions[0, -len(grid) :] = grid
    if model.reg_token is not None:
        model.reg_token.normal_(std=0.02)  # timm's 1e-6 would leave the registers all alike
    for block in blocks:
        heads, width = block.attn.num_heads, block.attn.head_dim
        query, key, _ = block.attn.qkv.weight.unflatten(0, (3, heads, width))
        for head, gain in enumerate(torch.linspace(*GAINS, heads)):
            query[head], key[head] = mimetic(dim, width)
            query[head] *= gain
    return model


def mimetic(dim: int, width: int) -> tuple[Factor, Factor]:
    """The best rank-`width` factors of a random matrix pulled towards the identity."""
    product = NOISE * torch.randn(dim, dim) / dim**0.5 + DIAGONAL * torch.eye(dim)
    left, scale, right = torch.linalg.svd(product)
    root = scale[:width].sqrt()[:, None]
    return root * left.mT[:width], root * right[:width]


@torch.no_grad()
def resample(source: VisionTransformer, target: VisionTransformer) -> VisionTransformer:
    """`target` with the weights of `source`: other patch size, other registers.

    Grid and prefix positions are taken over apart; what `source` lacks keeps its initialisation.
    """
    own, state = target.state_dict(), source.state_dict()
    patches = resample_patch_embed(
        state["patch_embed.proj.weight"], list(target.patch_embed.patch_size)
    )
    shared = min(source.num_prefix_tokens, target.num_prefix_tokens)
    grid = resample_abs_pos_embed(
        state["pos_embed"][:, source.num_prefix_tokens :],
        new_size=list(target.patch_embed.grid_size),
        old_size=list(source.patch_embed.grid_size),
        num_prefix_tokens=0,
    )
    prefix = [
        state["pos_embed"][:, :shared],
        own["pos_embed"][:, shared : target.num_prefix_tokens],
    ]
    taken = {
        "patch_embed.proj.weight": patches,
        "pos_embed": torch.cat([*prefix, grid], dim=1),
    }
    target.load_state_dict(own | state | taken)
    return target
