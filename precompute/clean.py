"""The clean pass: one forward pass that keeps what every intervention starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precompute.anatomy import Anatomy, Attention, Geometry, Layer, Model
from store.errors import ModelError

Weights = Float[Tensor, "image window head query key"]
HeadOutputs = Float[Tensor, "image token heads_dim"]
Watcher = Callable[[int, Weights], None]
"""Called with a layer and its attention, which has one window where all patches see all."""

ROW_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Inputs:
    """What an attention module was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class BlockCall:
    """What one layer made of a batch.

    `heads` are the outputs of its heads side by side, as they enter the site; windows, where there
    are some, one after the other along the tokens. `output` is what the block returned, in its own
    shape, images first. `inputs`: of its attentions, if they were asked for.
    """

    heads: HeadOutputs
    output: Tensor
    inputs: tuple[Inputs, ...]

    @property
    def tokens(self) -> Float[Tensor, "image all_tokens dim"]:
        """The output as a sequence of tokens."""
        return self.output.reshape(len(self.output), -1, self.output.shape[-1])


@dataclass(frozen=True)
class CleanPass:
    """`features` are what the model's head reads, in the model's own shape, images first.
    `embedded` is the output of its `patch_embed`, if it has one."""

    images: Float[Tensor, "image channel y x"]
    calls: list[BlockCall]
    features: Tensor
    embedded: Tensor | None


@dataclass
class _Seen:
    """What the hooks on one layer have caught so far."""

    heads: list[Tensor]
    attention: list[Tensor]
    inputs: list[Inputs]
    output: Tensor | None = None


def clean_pass(model: Model, anatomy: Anatomy, images: Float[Tensor, "image channel y x"],
               watch: Watcher | None = None, keep_inputs: bool = False) -> CleanPass:
    """Run the model once, unfused, and call `watch(layer, attention)` block by block.

    Raises ModelError if a block does not show its attention exactly once, or if the attention's
    rows do not sum to 1 (then it is not a softmax, and no measure of ours means anything).
    """
    seen = [_Seen([], [], []) for _ in anatomy.layers]
    embedded: list[Tensor] = []
    with ExitStack() as hooks, unfused(a for _, a in anatomy.attentions), torch.no_grad():
        for number, layer in enumerate(anatomy.layers):
            _listen(hooks, number, layer, seen[number], len(images), watch, keep_inputs)
        embed = getattr(model, "patch_embed", None)
        if isinstance(embed, nn.Module):
            hooks.callback(embed.register_forward_hook(
                lambda _m, _a, output: embedded.append(output)).remove)
        features = model.forward_features(images)
    calls = [_call(anatomy, number, caught) for number, caught in enumerate(seen)]
    return CleanPass(images, calls, features,
                     embedded[0] if embedded and isinstance(embedded[0], Tensor) else None)


def _listen(hooks: ExitStack, number: int, layer: Layer, seen: _Seen, images: int,
            watch: Watcher | None, keep_inputs: bool) -> None:
    """Catch a layer's heads, attention and output; nothing of the attention is kept for long."""

    def on_attention(attention: Attention) -> Callable[[nn.Module, tuple], None]:
        def caught(_module: nn.Module, args: tuple) -> None:
            seen.attention.append(weights_of(number, layer.geometry, attention, args[0], images))
            if len(seen.attention) == len(layer.attentions):
                if watch is not None:
                    watch(number, seen.attention[0] if len(seen.attention) == 1
                          else torch.cat(seen.attention, dim=2))
                seen.attention[:] = [weights[:0] for weights in seen.attention]
        return caught

    def on_output(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        seen.output = output

    for attention in layer.attentions:
        hooks.callback(attention.site.register_forward_pre_hook(
            lambda _m, args, a=attention: seen.heads.append(as_heads(a, args[0], images))).remove)
        hooks.callback(attention.shows.register_forward_pre_hook(on_attention(attention)).remove)
        if keep_inputs:
            hooks.callback(attention.module.register_forward_pre_hook(
                lambda _m, args, kwargs: seen.inputs.append(Inputs(args, kwargs)),
                with_kwargs=True).remove)
    hooks.callback(layer.block.register_forward_hook(on_output).remove)


def _call(anatomy: Anatomy, number: int, seen: _Seen) -> BlockCall:
    wanted = len(anatomy.layers[number].attentions)
    if len(seen.attention) != wanted or len(seen.heads) != wanted or seen.output is None:
        raise ModelError(f"{anatomy.family}: block {number} showed its attention "
                         f"{len(seen.attention)} times and its heads {len(seen.heads)} times, "
                         f"not {wanted} each; it cannot be analysed")
    heads = seen.heads[0] if wanted == 1 else torch.cat(seen.heads, dim=-1)
    return BlockCall(heads, seen.output, tuple(seen.inputs))


def as_heads(attention: Attention, site: Tensor, images: int) -> HeadOutputs:
    """The input of a site as image x token x heads, windows one after the other."""
    return site[..., :attention.dim].reshape(images, -1, attention.dim)


def weights_of(number: int, geometry: Geometry, attention: Attention, shown: Tensor,
               images: int) -> Weights:
    """A module's attention in our axes. Raises ModelError where it is no softmax over tokens."""
    windows, queries, keys = geometry.attention_shape
    weights = shown.movedim(-1, 1) if attention.shows is not attention.masks else shown
    if weights.numel() != images * windows * attention.heads * queries * keys:
        raise ModelError(f"block {number} has attention of shape {tuple(weights.shape[1:])}, not "
                         f"{(attention.heads, queries, keys)} (heads, queries, keys); it cannot "
                         "be analysed")
    weights = weights.reshape(images, windows, attention.heads, queries, keys)
    worst = (weights.sum(-1) - 1).abs().max().item()
    if not worst < ROW_SUM_TOLERANCE:
        raise ModelError(f"block {number} has attention whose rows sum to 1 ± {worst:.2g}; this "
                         "is not softmax attention and cannot be analysed")
    return weights


@contextmanager
def unfused(attentions: Iterable[Attention]) -> Iterator[None]:
    """Fused attention never shows its weights: switch it off, and back on after."""
    switches: list[Model] = [a.switch for a in attentions if hasattr(a.switch, "fused_attn")]
    before = [switch.fused_attn for switch in switches]
    try:
        for switch in switches:
            switch.fused_attn = False
        yield
    finally:
        for switch, fused in zip(switches, before, strict=True):
            switch.fused_attn = fused
