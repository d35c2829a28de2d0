"""Small ViTs of every supported family, with weights whose heads matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial

import timm
import torch
from timm.layers import Attention, SwiGLUPacked
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from precompute.batches import Batch
from precompute.families import dissect
from precompute.models import Vit
from precompute.readout import Classifier, Native, Nothing
from precompute.reference import Reference
from precompute.specs import parse_spec
from precompute.subject import FLOAT32, Subject
from tests.precompute import slow
from tests.precompute.slow import reference as reference

TINY = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
Size = tuple[int, int]


class Gated(Attention):
    """timm's attention with its gate, which VisionTransformer does not hand down."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, gated=True, **options)


@dataclass(frozen=True)
class Kind:
    """A small model: timm's name (VisionTransformer itself without one) with these options, at
    these sizes. `windowed`: attention in windows, in all layers but those named in `everywhere`;
    `late`: the layer at which the class token comes in."""

    name: str = ""
    options: dict = field(default_factory=dict)
    sizes: tuple[Size, ...] = ((32, 32),)
    prefix: int = 1
    class_token: bool = True
    windowed: bool = False
    everywhere: tuple[int, ...] = ()
    late: int | None = None


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
    "norms everywhere": dict(scale_attn_norm=True, scale_mlp_norm=True, qk_norm=True, pre_norm=True,
                             init_values=0.5, reg_tokens=2),
    "pre-norm": dict(pre_norm=True),
    "no biases": dict(qkv_bias=False, proj_bias=False),
    "one channel": dict(in_chans=1),
    "no classifier": dict(num_classes=0),
    "post-norm": dict(block_fn=ResPostBlock, init_values=0.5),
    "gated": dict(attn_layer=Gated),
    "gated, norm over joined heads": dict(attn_layer=Gated, scale_attn_norm=True),
    "gated linear MLP": dict(mlp_layer=SwiGLUPacked),
    "approximate GELU": dict(act_layer="gelu_tanh"),
    "parallel scaling": dict(block_fn=ParallelScalingBlock, init_values=0.5),
    "parallel scaling, one projection": dict(
        block_fn=partial(ParallelScalingBlock, fuse_out_proj=True)),
    "parallel things": dict(block_fn=ParallelThingsBlock, init_values=0.5),
    "parallel things, norm over joined heads": dict(block_fn=ParallelThingsBlock,
                                                    scale_attn_norm=True),
}

SMALL = dict(embed_dim=24, depth=3, num_heads=3)
STAGES = dict(depths=(2, 2), num_heads=(2, 3), embed_dim=24)
PIT = dict(base_dims=[8, 8, 8], depth=[1, 2, 1], heads=[2, 4, 4], patch_size=8, stride=4)
WIDE = ((64, 64), (64, 96))
NO_PREFIX = dict(prefix=0, class_token=False)

FAMILIES: dict[str, Kind] = {
    "DeiT distilled": Kind("deit_tiny_distilled_patch16_224", SMALL, WIDE, prefix=2),
    "DeiT-3": Kind("deit3_small_patch16_224", SMALL, WIDE),
    "BEiT": Kind("beit_base_patch16_224", SMALL, WIDE),
    "BEiT, shared bias": Kind("beit_base_patch16_224", dict(
        SMALL, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token"), WIDE),
    "EVA-02": Kind("eva02_tiny_patch14_224", SMALL, ((56, 56), (42, 56))),
    "EVA-02, norm in the MLP": Kind("eva02_base_patch14_224", SMALL, ((56, 56), (42, 56))),
    "EVA-02, norm over joined heads": Kind("eva02_base_patch16_clip_224", SMALL, WIDE),
    "EVA-02, post-norm": Kind("eva02_enormous_patch14_clip_224", SMALL, ((42, 42),)),
    "EVA-02, rotary attention": Kind(
        "eva02_base_patch16_clip_224", dict(SMALL, attn_type="rope"), WIDE),
    "relative positions": Kind("vit_relpos_small_patch16_224", SMALL, WIDE, **NO_PREFIX),
    "relative positions, class token": Kind("vit_relpos_base_patch16_cls_224", SMALL, WIDE),
    "relative positions, class token unread": Kind(
        "vit_relpos_base_patch16_clsgap_224", SMALL, WIDE),
    "relative positions, shared": Kind(
        "vit_srelpos_small_patch16_224", dict(SMALL, rel_pos_dim=24), WIDE, **NO_PREFIX),
    "relative positions, post-norm": Kind(
        "vit_relpos_small_patch16_rpn_224", SMALL, WIDE, **NO_PREFIX),
    "DINOv2 with registers": Kind(
        "vit_small_patch14_reg4_dinov2", SMALL, ((56, 56), (42, 56)), prefix=5),
    "DINOv2, SwiGLU": Kind("vit_giant_patch14_reg4_dinov2", SMALL, ((42, 42),), prefix=5),
    "DINOv3": Kind("vit_small_patch16_dinov3", SMALL, WIDE, prefix=5),
    "DINOv3, SwiGLU": Kind("vit_small_plus_patch16_dinov3_qkvb", SMALL, ((64, 64),), prefix=5),
    "rotary": Kind("vit_small_patch16_rope_224", SMALL, WIDE),
    "rotary, mixed": Kind("vit_small_patch16_rope_mixed_ape_224", SMALL, WIDE),
    "rotary, registers": Kind("vit_medium_patch16_rope_reg1_gap_256", SMALL, WIDE,
                              class_token=False),
    "grouped queries": Kind("vit_base_patch16_sapiens2", dict(
        embed_dim=32, depth=3, num_heads=4, num_kv_heads=2), WIDE, prefix=9),
    "perception encoder": Kind("vit_pe_core_tiny_patch16_384", dict(
        SMALL, attn_pool_num_heads=3), WIDE),
    "CaiT": Kind("cait_xxs24_224", dict(SMALL, depth=2), WIDE, late=2),
    "ConViT": Kind("convit_tiny", dict(SMALL, local_up_to_layer=2), ((64, 64),),
                   late=2),
    "hybrid": Kind("vit_tiny_r_s16_p8_224", SMALL, WIDE),
    "AIM": Kind("aimv2_large_patch14_224", SMALL, ((42, 42), (42, 56)), **NO_PREFIX),
    "CLIP": Kind("vit_base_patch16_clip_quickgelu_224", SMALL, WIDE),
    "SigLIP": Kind("vit_base_patch16_siglip_224", SMALL, WIDE, **NO_PREFIX),
    "SigLIP, average": Kind("vit_base_patch16_siglip_gap_224", SMALL, WIDE, **NO_PREFIX),
    "SAM": Kind("samvit_base_patch16", dict(
        SMALL, window_size=3, global_attn_indexes=(1,), neck_chans=16),
        ((64, 64), (64, 112)), windowed=True, everywhere=(1,), **NO_PREFIX),
    "Swin": Kind("swin_tiny_patch4_window7_224", dict(STAGES, window_size=4),
                 ((32, 32), (32, 64)), windowed=True, **NO_PREFIX),
    "Swin, padded": Kind("swin_tiny_patch4_window7_224", dict(STAGES, window_size=3),
                         ((40, 40), (40, 56)), windowed=True, **NO_PREFIX),
    "Swin-V2": Kind("swinv2_tiny_window8_256", dict(STAGES, window_size=4),
                    ((32, 32), (32, 64)), windowed=True, **NO_PREFIX),
    "Swin-V2, padded": Kind("swinv2_tiny_window8_256", dict(STAGES, window_size=3),
                            ((40, 40), (40, 56)), windowed=True, **NO_PREFIX),
    "Swin-V2-CR": Kind("swinv2_cr_tiny_224", dict(STAGES, window_size=4),
                       ((32, 32), (32, 64)), windowed=True, **NO_PREFIX),
    "NaFlex": Kind("naflexvit_base_patch16_gap", SMALL, ((64, 64),), prefix=4,
                   class_token=False),
    "Qwen3": Kind("qwen3_vit_88m", SMALL, ((64, 64), (64, 96)), **NO_PREFIX),
    "DeepSeek": Kind("deepseek_vit_412m", SMALL, ((56, 56), (42, 56)), **NO_PREFIX),
    "PiT": Kind("pit_ti_224", PIT, ((32, 32), (32, 44))),
    "PiT distilled": Kind("pit_ti_distilled_224", PIT, ((32, 32), (32, 44)), prefix=2),
}


SQUARE_TOO = {"class token", "registers", "average pooling", "attention pooling", "layer scale",
              "norms everywhere", "parallel scaling, one projection", "parallel things"}


def _of_variant(name: str) -> Kind:
    options = VARIANTS[name]
    class_token = options.get("class_token", True)
    return Kind("", options, ((32, 32), (32, 48)) if name in SQUARE_TOO else ((48, 32),),
                int(class_token) + options.get("reg_tokens", 0), class_token)


KINDS: dict[str, Kind] = {**{name: _of_variant(name) for name in VARIANTS}, **FAMILIES}
ALIKE = {"average pooling beside a class token", "average pooling, norm before", "layer scale",
         "qk norm", "pre-norm", "no biases", "one channel", "gated linear MLP", "approximate GELU",
         "norms everywhere", "EVA-02, norm in the MLP", "EVA-02, rotary attention", "hybrid",
         "relative positions, class token unread", "relative positions, shared", "AIM", "CLIP",
         "DINOv2, SwiGLU", "DINOv3, SwiGLU", "rotary, mixed", "DeiT-3", "SigLIP", "SigLIP, average",
         "gated", "registers without class token", "BEiT, shared bias", "EVA-02, post-norm",
         "relative positions, post-norm", "parallel things"}
"""Kinds whose heads come and go as another kind's: they differ in their MLP, norms or readout."""
DISTINCT = [name for name in KINDS if name not in ALIKE]
SIZED: dict[str, tuple[str, Size]] = {
    f"{name} {height}x{width}": (name, (height, width))
    for name, kind in KINDS.items() for height, width in kind.sizes}


def build(name: str, size: Size | None = None) -> nn.Module:
    """A model of a kind, its weights randomised."""
    kind = KINDS[name]
    size = size or kind.sizes[0]
    if not kind.name:
        return tiny(**{**kind.options, "img_size": size})
    torch.manual_seed(0)
    options = {"num_classes": 5, **kind.options, "img_size": size}
    model = randomise(timm.create_model(kind.name, pretrained=False, **options))
    model.images_of = (3, *size)
    return model


@cache
def built(name: str, size: Size | None = None) -> nn.Module:
    """The same, made once: whoever takes it leaves it as it was."""
    return build(name, size)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every head's effect is of order one: none is near 0, norms and
    LayerScale differ from 1, attention is neither uniform nor one-hot."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1 and not name.endswith(("pos_embed", "token")):
            noise = noise * 1.4 / parameter.shape[1:].numel() ** 0.5
        elif parameter.ndim == 1:
            noise = (0.8 if "gamma" in name else float(name.endswith("weight"))) + 0.2 * noise
        parameter.data.copy_(noise)
    return model.eval()


def tiny(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    return randomise(VisionTransformer(**{**TINY, **options}))


def size_of(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of its images."""
    known = getattr(model, "images_of", None)
    return known or (model.patch_embed.proj.in_channels, *model.patch_embed.img_size)


def images(model: nn.Module, count: int = 3, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, *size_of(model), generator=draw)


def as_vit(model: nn.Module) -> Vit:
    """What `models.load` gives, of a model that is already here."""
    classes = int(model.num_classes or 0)
    return Vit(parse_spec("vit_tiny_patch16_224"), model, dissect(model, "test", size_of(model)),
               lambda picture: picture, "RGB", {},
               [(f"class {i}", str(i)) for i in range(classes)] or None, torch.device("cpu"))


def as_subject(model: nn.Module, engine: str = "tail", reference: Reference | None = None,
               classifier: Classifier | None = None, precision: str = FLOAT32) -> Subject:
    """The model under study; labels are "0", "1" ..., if it classifies."""
    vit = as_vit(model)
    own = Native(model) if vit.class_names else Nothing()
    return Subject("m", vit, engine, classifier or own,
                   {str(i): i for i in range(len(vit.class_names or ()))}, reference, precision)


def batch_of(model: nn.Module, count: int = 3, seed: int = 1) -> Batch:
    """Images with labels, the second without one."""
    labels = [None if i == 1 else str(i % 5) for i in range(count)]
    return Batch(list(range(count)), labels, images(model, count, seed))


def token_kinds(name: str, layer: int) -> slow.Kinds:
    """What the tokens of a sequence of so many are, in a layer of a kind."""
    kind = KINDS[name]
    windowed = kind.windowed and layer not in kind.everywhere
    if windowed or (kind.late is not None and layer < kind.late):
        return lambda count: [slow.PATCH] * count
    first = [slow.CLASS if kind.class_token and i == 0 else slow.OTHER for i in range(kind.prefix)]
    return lambda count: (first + [slow.PATCH] * count)[:count]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside leaves the model as it was."""
    before = _traces(model)
    try:
        yield
    finally:
        assert _traces(model) == before


def _traces(model: nn.Module) -> list[tuple]:
    """All that a sweep could leave behind in a model."""
    return [(name, getattr(m, "fused_attn", None), "forward" in vars(m), m.training,
             len(m._forward_hooks), len(m._forward_pre_hooks),
             [(p.requires_grad, p.grad is None, p._version, p.data_ptr())
              for p in m.parameters(recurse=False)]) for name, m in model.named_modules()]
