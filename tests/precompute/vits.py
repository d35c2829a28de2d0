"""Small ViTs of many kinds with weights whose heads matter, and an independent slow reference."""

from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

TINY = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)

VARIANTS: dict[str, dict] = {
    "class token": {},
    "registers": dict(reg_tokens=4),
    "registers without class token": dict(class_token=False, reg_tokens=2, global_pool="avg"),
    "average pooling": dict(class_token=False, global_pool="avg"),
    "average pooling beside a class token": dict(global_pool="avg"),
    "average pooling, norm before": dict(class_token=False, global_pool="avg", fc_norm=False),
    "attention pooling": dict(class_token=False, global_pool="map"),
    "layer scale": dict(init_values=0.5),
    "qk norm": dict(qk_norm=True),
    "norm over joined heads": dict(scale_attn_norm=True),
    "pre-norm": dict(pre_norm=True),
    "not square": dict(img_size=(32, 56)),
    "one channel": dict(in_chans=1),
    "no classifier": dict(num_classes=0),
    "post-norm": dict(block_fn=timm.models.vision_transformer.ResPostBlock, init_values=0.5),
}

FAMILIES: dict[str, dict] = {
    "deit_tiny_distilled_patch16_224": dict(img_size=64, depth=3),
    "deit3_small_patch16_224": dict(img_size=64, depth=3),
    "beit_base_patch16_224": dict(img_size=64, depth=3, embed_dim=96, num_heads=3),
    "eva02_tiny_patch14_224": dict(img_size=56, depth=3),
    "vit_small_patch14_reg4_dinov2": dict(img_size=56, depth=3),
    "vit_small_patch16_dinov3": dict(img_size=64, depth=3),
    "vit_relpos_small_patch16_224": dict(img_size=64, depth=3),
}

REFUSED = {
    "swin_tiny_patch4_window7_224": {}, "resnet18": {}, "mixer_s32_224": {},
    "xcit_nano_12_p16_224": {}, "vit_small_patch16_18x2_224": dict(depth=1),
    "cait_xxs24_224": dict(depth=1),
}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every head's effect is of order one: none is near 0, norms and
    LayerScale differ from 1, attention is neither uniform nor one-hot."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1 and "embed" not in name and "token" not in name:
            noise = noise * 1.4 / parameter.shape[1:].numel() ** 0.5
        elif parameter.ndim == 1:
            centre = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
            centre = 0.8 if "gamma" in name else centre
            noise = centre + 0.2 * noise
        parameter.data.copy_(noise)
    return model.eval()


def tiny(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    return randomise(VisionTransformer(**{**TINY, **options}))


def reference(model: nn.Module, images: torch.Tensor, layer: int, head: int) -> torch.Tensor:
    """The embedding after pruning one head, by a full forward pass with one hook. Written apart
    from the engine: it shares no code with it."""
    attention = list(model.blocks)[layer].attn
    has_norm = isinstance(getattr(attention, "norm", None), nn.Module)
    where = attention.norm if has_norm else attention.proj

    def clear(_module: nn.Module, args: tuple) -> torch.Tensor:
        joined = args[0].clone()
        per_head = joined.view(*joined.shape[:-1], attention.num_heads, -1)
        per_head[..., head, :] = 0
        return per_head.view_as(joined)

    handle = where.register_forward_pre_hook(clear)
    try:
        with torch.no_grad():
            return model.forward_head(model.forward_features(images), pre_logits=True)
    finally:
        handle.remove()
