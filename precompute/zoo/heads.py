"""What the heads of a model look at, in four numbers each: are they all alike?"""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

Attention = Float[Tensor, "image head query key"]
NUMBERS = ("hop0_mass", "hop1_mass", "row_entropy", "prefix_share")


@torch.inference_mode()
def attention(model: VisionTransformer, batch: Tensor) -> list[Attention]:
    """Softmaxed attention, layer by layer."""
    caught: list[Attention] = []
    blocks: Any = model.blocks
    hooks, fused = [], [block.attn.fused_attn for block in blocks]
    try:
        for block in blocks:
            block.attn.fused_attn = False  # the fused path never calls attn_drop
            hook = block.attn.attn_drop.register_forward_hook(lambda *io: caught.append(io[2]))
            hooks.append(hook)
        model(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for block, was in zip(blocks, fused, strict=True):
            block.attn.fused_attn = was
    if len(caught) != len(blocks):
        raise RuntimeError(f"caught {len(caught)} attentions of {len(blocks)} blocks")
    return caught


def check_heads(model: VisionTransformer, batch: Tensor) -> list[dict[str, float]]:
    """Per layer and head: hop-0 and hop ≤ 1 mass, row entropy (nats), prefix share; patch queries.

    Hop: Chebyshev distance of two patches. A uniform head over T tokens has hop-0 mass 1/T and
    row entropy ln T.
    """
    height, width = model.patch_embed.grid_size
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([row.flatten(), column.flatten()], 1)
    hop = (place[:, None] - place[None]).abs().amax(-1)
    prefix = model.num_prefix_tokens
    rows = []
    for layer, weights in enumerate(attention(model, batch)):
        patches = weights[:, :, prefix:].float()
        masses = [(patches[..., prefix:] * (hop <= k)).sum(-1).mean((0, 2)) for k in (0, 1)]
        entropy = -torch.xlogy(patches, patches).sum(-1).mean((0, 2))
        share = patches[..., :prefix].sum(-1).mean((0, 2))
        columns = zip(*(v.tolist() for v in (*masses, entropy, share)), strict=True)
        for head, numbers in enumerate(columns):
            rounded = (round(number, 4) for number in numbers)
            rows.append({"layer": layer, "head": head, **dict(zip(NUMBERS, rounded, strict=True))})
    return rows


def head_table(rows: list[dict[str, float]]) -> str:
    lines = ["layer head  hop0  hop<=1  entropy  prefix"]
    for r in rows:
        lines.append(
            f"{r['layer']:5} {r['head']:4}  {r['hop0_mass']:.3f}  {r['hop1_mass']:.3f}"
            f"  {r['row_entropy']:7.3f}  {r['prefix_share']:.3f}"
        )
    return "\n".join(lines)
