"""timm model → the layers in which its heads can be seen and changed.

One entry of FAMILIES for each way of arranging blocks; the rest of the package knows layers only.
Checked on a small member of every family in tests/precompute/test_families.py, and tabled in
docs/families.md by the script that tries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from timm.layers import Attention as TimmAttention
from timm.layers import AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.cait import ClassAttn, LayerScaleBlockClassAttn, TalkingHeadAttn
from timm.models.convit import GPSA, MHSA
from timm.models.eva import EvaAttention
from timm.models.swin_transformer import WindowAttention
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from timm.models.swin_transformer_v2_cr import WindowMultiHeadAttention
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import nn

from precompute.anatomy import (
    Anatomy,
    Attention,
    Geometry,
    Layer,
    Model,
    Windows,
    check_memory,
)
from store.errors import ModelError

ENDS_WITH_PROJ = (TimmAttention, AttentionRope, BeitAttention, EvaAttention, RelPosAttention,
                  WindowAttention, WindowAttentionV2, WindowMultiHeadAttention, TalkingHeadAttn,
                  ClassAttn, GPSA, MHSA)

NO_ATTENTION = "it is a convolutional network and has no attention"
CHANNELS = "its attention is between channels (cross-covariance), not between tokens"
LINEAR = "its attention is linear: no softmax gives each query a row of weights over tokens"
POOLED = "its attention pools queries and keys, so that rows and columns are no patches"
REDUCED = "the keys of its attention are a reduced grid, not the patches"
UNSEEN = "it never shows its attention to a module that could be listened at"
AMONG_CONVOLUTIONS = ("it is a convolutional network with at most some attention between, which we "
                      "do not single out")

REASONS = {
    "Xcit": CHANNELS, "EdgeNeXt": CHANNELS,
    "DaVit": "every other block attends between channels, not between tokens",
    "CSATv2": AMONG_CONVOLUTIONS, "ByobNet": AMONG_CONVOLUTIONS, "MobileNetV5": AMONG_CONVOLUTIONS,
    "FastVit": AMONG_CONVOLUTIONS, "IFormer": AMONG_CONVOLUTIONS,
    "MlpMixer": "it mixes tokens by fixed weights and has no attention",
    "ConvMixer": "it is a convolutional mixer and has no attention",
    "Sequencer2d": "it mixes tokens by recurrent networks (LSTMs) and has no attention",
    "FocalNet": "it mixes tokens by focal modulation and has no attention",
    "MambaOut": NO_ATTENTION, "RepVit": NO_ATTENTION,
    "EfficientViM": "it mixes tokens by a state space and has no attention",
    "EfficientVit": LINEAR, "SwiftFormer": LINEAR, "CoaT": LINEAR, "LowFormer": POOLED,
    "CPUBone": POOLED, "NextViT": REDUCED, "PyramidVisionTransformerV2": REDUCED,
    "Twins": REDUCED, "Hiera": POOLED, "MultiScaleVit": POOLED,
    "EfficientVitMsra": "its heads feed each other one after the other, so that clearing one "
                        "changes the next",
    "SHViT": "its blocks have one head each, on some channels of a convolutional map",
    "EfficientFormer": "most of its blocks mix tokens without attention",
    "Levit": UNSEEN, "TinyVit": UNSEEN,
    "VOLO": "the outlook attention of its first stage predicts weights from the query alone",
    "TNT": "its attention works on two grids at once, pixels inside patches and patches",
    "CrossVit": "its two branches attend across each other and share no grid",
    "GlobalContextVit": "in every other block the queries of a window come from the whole image, "
                        "so that rows are no patches",
    "MaxxVit": "its attention is on grids of far-apart patches or between convolutions, for which "
               "we have no hops",
    "MetaFormer": "its first stages mix tokens without attention",
    "Nest": "its attention is in blocks of a nested grid, an order that we do not unfold",
    "Visformer": "its heads are maps joined by a convolution, not slices of tokens",
    "Gemma4Vit": "its projections can clamp what goes through them, which we do not follow",
}
"""Why a family cannot be analysed, by the start of its class name; the longest that fits."""


def dissect(model: Model, spec: str, input_size: tuple[int, int, int]) -> Anatomy:
    """Find the parts. Raises ModelError, saying why, for models whose heads cannot be ablated."""
    family = type(model).__name__
    _, height, width = input_size
    known = [name for name in REASONS if family.startswith(name)]
    if known:
        raise _refusal(spec, family, REASONS[max(known, key=len)])
    find = next((find for has, find in FAMILIES if has(model)), None)
    if find is None:
        raise _refusal(spec, family, "it has no sequence of transformer blocks over a token grid "
                       "that we know, as convolutional networks have none")
    try:
        layers = tuple(find(model, height, width))
    except ModelError as error:
        raise _refusal(spec, family, str(error)) from error
    plain = all(type(a.block) is Block and type(a.block.attn) is TimmAttention
                and a.block.attn.gate is None for a in layers)
    reads_class = _reads_class(model)
    anatomy = Anatomy(
        family, layers, _geometry(model, layers), (height, width),
        height // layers[0].geometry.grid_h, plain, plain and reads_class
        and type(model) is VisionTransformer, reads_class)
    check_memory(spec, anatomy)
    return anatomy


def _refusal(spec: str, family: str, why: str) -> ModelError:
    return ModelError(f"model {spec!r} ({family}) cannot be analysed: {why}")


def _reads_class(model: Model) -> bool:
    """Whether the classifier sees nothing of the last block but its class token."""
    pooling = getattr(model, "global_pool", None)
    return pooling == "token" and getattr(model, "attn_pool", None) is None \
        and not hasattr(model, "dist_token") and getattr(model, "head_dist", None) is None


def _geometry(model: Model, layers: tuple[Layer, ...]) -> Geometry:
    """The model's own: the first layer's grid, and the prefix that its last layers see."""
    first, last = layers[0].geometry, layers[-1].geometry
    return Geometry(first.grid_h, first.grid_w, last.prefix, last.class_token)


def _one_grid(model: Model, height: int, width: int) -> Iterator[Layer]:
    """Blocks over one grid of patches, as in VisionTransformer, DeiT, BEiT, EVA; perhaps in an
    encoder of their own, perhaps behind an embedding that also has the class token."""
    trunk = _trunk(model)
    grid_h, grid_w = _grid(trunk, height, width)
    prefix = int(getattr(trunk, "num_prefix_tokens", 0))
    holder = trunk if hasattr(trunk, "patch_embed") else trunk.embeds
    has_class = prefix > 0 and getattr(holder, "cls_token", None) is not None
    geometry = Geometry(grid_h, grid_w, prefix, has_class)
    for i, block in enumerate(trunk.blocks):
        yield Layer(block, _attentions(block, i), geometry)


def _class_late(model: Model, height: int, width: int) -> Iterator[Layer]:
    """CaiT: patches among themselves, then blocks in which the class token alone asks."""
    grid = _grid(model, height, width)
    for i, block in enumerate(model.blocks):
        yield Layer(block, _attentions(block, i), Geometry(*grid, 0, False))
    for i, block in enumerate(model.blocks_token_only, start=len(model.blocks)):
        if type(block) is not LayerScaleBlockClassAttn:
            raise ModelError(f"block {i} is a {type(block).__name__}, which we do not know")
        yield Layer(block, _attentions(block, i), Geometry(*grid, 1, True, class_query=True))


def _class_from_some_block_on(model: Model, height: int, width: int) -> Iterator[Layer]:
    """ConViT: patches among themselves, then the class token comes in and all ask all."""
    grid = _grid(model, height, width)
    for i, block in enumerate(model.blocks):
        late = i >= int(model.local_up_to_layer)
        yield Layer(block, _attentions(block, i), Geometry(*grid, int(late), late))


def _pooled_stages(model: Model, height: int, width: int) -> Iterator[Layer]:
    """PiT: stages of plain blocks over ever coarser grids, class tokens carried along."""
    grid_h, grid_w = int(model.pos_embed.shape[-2]), int(model.pos_embed.shape[-1])
    layer = 0
    for stage in model.transformers:
        if stage.pool is not None:
            grid_h, grid_w = (_pooled(stage.pool.conv, side, axis)
                              for axis, side in enumerate((grid_h, grid_w)))
        for block in stage.blocks:
            yield Layer(block, _attentions(block, layer),
                        Geometry(grid_h, grid_w, int(model.cls_token.shape[1]), True))
            layer += 1


def _pooled(conv: nn.Conv2d, side: int, axis: int) -> int:
    """Sides of a convolution's output."""
    return (side + 2 * int(conv.padding[axis]) - conv.kernel_size[axis]) // conv.stride[axis] + 1


def _windowed_stages(model: Model, height: int, width: int) -> Iterator[Layer]:
    """Swin and both kinds of Swin-V2: windows over ever coarser grids, every other block's
    shifted."""
    layer = 0
    for stage in _stages(model):
        for block in stage.blocks:
            grid_h, grid_w = (int(side) for side in _resolution(block))
            window_h, window_w = (int(side) for side in block.window_size)
            shift_h, shift_w = (int(side) for side in block.shift_size)
            yield Layer(block, _attentions(block, layer), Geometry(
                grid_h, grid_w, 0, False, Windows(window_h, window_w, shift_h, shift_w)))
            layer += 1


def _windows_in_some_blocks(model: Model, height: int, width: int) -> Iterator[Layer]:
    """SAM's ViT: one grid, most blocks in windows that are not shifted."""
    grid = _grid(_trunk(model), height, width)
    for i, block in enumerate(_trunk(model).blocks):
        side = int(block.window_size)
        yield Layer(block, _attentions(block, i),
                    Geometry(*grid, 0, False, Windows(side, side) if side else None))


def _has_windowed_stages(model: Model) -> bool:
    stages = _stages(model)
    return isinstance(stages, nn.Sequential) and len(stages) > 0 and all(
        _resolution(block) is not None and hasattr(block, "shift_size")
        and isinstance(block.attn, (WindowAttention, WindowAttentionV2, WindowMultiHeadAttention))
        for stage in stages for block in getattr(stage, "blocks", [None]))


def _stages(model: Model) -> Model:
    return getattr(model, "layers", None) or getattr(model, "stages", None)


def _resolution(block: Model) -> Any:
    """Sides of the grid that a windowed block works on; None for other blocks."""
    return getattr(block, "input_resolution", None) or getattr(block, "feat_size", None)


def _has_blocks(model: Model) -> bool:
    trunk = _trunk(model)
    blocks = getattr(trunk, "blocks", None)
    return isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks) > 0 \
        and (hasattr(trunk, "patch_embed") or hasattr(trunk, "embeds")) \
        and not hasattr(trunk, "stages")


def _trunk(model: Model) -> Model:
    """The encoder of a model that is a classifier around one, else the model."""
    return model if hasattr(model, "blocks") else getattr(model, "encoder", model)


Finder = Callable[[Model, int, int], Iterator[Layer]]
FAMILIES: tuple[tuple[Callable[[Model], bool], Finder], ...] = (
    (_has_windowed_stages, _windowed_stages),
    (lambda model: hasattr(model, "transformers") and hasattr(model, "cls_token"), _pooled_stages),
    (lambda model: bool(getattr(model, "blocks_token_only", None)), _class_late),
    (lambda model: _has_blocks(model) and hasattr(_trunk(model).blocks[0], "window_size"),
     _windows_in_some_blocks),
    (lambda model: _has_blocks(model) and hasattr(model, "local_up_to_layer"),
     _class_from_some_block_on),
    (_has_blocks, _one_grid),
)
"""The first whose test says yes tells the layers."""


def _attentions(block: Model, layer: int) -> tuple[Attention, ...]:
    """The attention modules of a block, side by side."""
    if any(type(m).__name__.startswith("Diff") for m in (block, getattr(block, "attn", None))):
        raise ModelError("its attention is a difference of two softmaxes, whose rows are no "
                         "weights")
    if type(block) is ParallelScalingBlock:
        return (_inside_the_block(block),)
    if type(block) is ParallelThingsBlock:
        return tuple(_attention(path.attn, layer) for path in block.attns)
    return (_attention(getattr(block, "attn", None), layer),)


def _attention(module: Model, layer: int) -> Attention:
    missing = [name for name in ("num_heads", "proj", "attn_drop") if not hasattr(module, name)]
    if module is None:
        raise ModelError(f"block {layer} has no softmax self-attention of its own")
    if missing:
        raise ModelError(f"block {layer} has no softmax self-attention whose heads can be told "
                         f"apart ({type(module).__name__} without {', '.join(missing)})")
    heads = int(module.num_heads)
    norm = getattr(module, "norm", None)
    talking = isinstance(module, TalkingHeadAttn)
    return Attention(
        module, heads, int(module.proj.in_features) // heads,
        site=norm if isinstance(norm, nn.Module) else module.proj,
        shows=module.proj_w if talking else module.attn_drop, masks=module.attn_drop,
        switch=module, proj=module.proj,
        ends_with_proj=type(module) in ENDS_WITH_PROJ and getattr(module, "gate", None) is None)


def _inside_the_block(block: Model) -> Attention:
    """ParallelScalingBlock is its own attention; with one joint projection for attention and MLP
    the heads come first in it."""
    proj = block.attn_out_proj if block.out_proj is None else block.out_proj
    return Attention(block, int(block.num_heads), int(block.head_dim), site=proj,
                     shows=block.attn_drop, masks=block.attn_drop, switch=block, proj=proj,
                     ends_with_proj=False)


def _grid(model: Model, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches at this input size."""
    embed: Model = getattr(model, "patch_embed", getattr(model, "embeds", None))
    if getattr(embed, "backbone", None) is not None:  # hybrids: counted on the stem's feature map
        return tuple(embed.grid_size)
    size = getattr(embed, "patch_size", None)
    if size is None:
        raise ModelError("it has no grid of patches")
    patch_h, patch_w = size if isinstance(size, (tuple, list)) else (size, size)
    return height // int(patch_h), width // int(patch_w)
