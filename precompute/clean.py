"""The clean pass: one forward pass that keeps what every ablation starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precompute.anatomy import Anatomy, Model
from store.errors import ModelError

Watcher = Callable[[int, Float[Tensor, "image head query key"]], None]


@dataclass(frozen=True)
class BlockCall:
    """What one block was given and what it made of it.

    `heads` are the outputs of its heads side by side, as they enter the site.
    """

    tokens: Float[Tensor, "image token dim"]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    heads: Float[Tensor, "image token heads_dim"]
    output: Float[Tensor, "image token dim"]


@dataclass(frozen=True)
class CleanPass:
    """`features` are the tokens after the model's last norm: what its head reads."""

    calls: list[BlockCall]
    features: Float[Tensor, "image token dim"]


def clean_pass(model: Model, anatomy: Anatomy, images: Float[Tensor, "image channel y x"],
               watch: Watcher | None = None) -> CleanPass:
    """Run the model once, unfused, and call `watch(layer, attention)` block by block.

    Raises ModelError if a block does not show its attention exactly once, or if the attention's
    rows do not sum to 1 (then it is not a softmax, and no measure of ours means anything).
    """
    calls: list[BlockCall] = []
    seen: list[int] = []
    heads: list[Tensor] = []

    def on_site(_module: nn.Module, args: tuple) -> None:
        heads.append(args[0])

    def on_attention(_module: nn.Module, args: tuple) -> None:
        layer, attention = len(calls), args[0]
        _check_attention(anatomy, layer, attention)
        seen.append(layer)
        if watch is not None:
            watch(layer, attention)

    def on_output(_module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        tokens, *rest = args
        calls.append(BlockCall(tokens, tuple(rest), kwargs, heads[-1], output))

    handles = []
    try:
        for layer, block in enumerate(anatomy.blocks):
            handles += [block.register_forward_hook(on_output, with_kwargs=True),
                        anatomy.site(layer).register_forward_pre_hook(on_site),
                        block.attn.attn_drop.register_forward_pre_hook(on_attention)]
        with unfused(anatomy), torch.no_grad():
            features = model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    if seen != list(range(anatomy.layers)):
        raise ModelError(f"{anatomy.family} showed its attention in blocks {seen}, "
                         f"not once in each of {anatomy.layers}")
    return CleanPass(calls, features)


@contextmanager
def unfused(anatomy: Anatomy) -> Iterator[None]:
    """Fused attention never shows its weights: switch it off, and back on after."""
    before = [getattr(block.attn, "fused_attn", None) for block in anatomy.blocks]
    try:
        for block, fused in zip(anatomy.blocks, before, strict=True):
            if fused is not None:
                block.attn.fused_attn = False
        yield
    finally:
        for block, fused in zip(anatomy.blocks, before, strict=True):
            if fused is not None:
                block.attn.fused_attn = fused


def _check_attention(anatomy: Anatomy, layer: int,
                     attention: Float[Tensor, "image head query key"]) -> None:
    tokens = anatomy.geometry.prefix + anatomy.geometry.patches
    wanted = (anatomy.heads[layer], tokens, tokens)
    if tuple(attention.shape[1:]) != wanted:
        raise ModelError(f"{anatomy.family}, block {layer}: attention of shape "
                         f"{tuple(attention.shape[1:])}, not {wanted} (heads, tokens, tokens); "
                         "windowed, cross-covariance and class-only attention are not supported")
    worst = (attention.sum(-1) - 1).abs().max().item()
    if not worst < 1e-3:
        raise ModelError(f"{anatomy.family}, block {layer}: attention rows sum to 1 ± {worst:.2g}; "
                         "this is not softmax attention")
