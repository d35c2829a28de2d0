"""What a model does when left to itself but for single heads: full forward passes with plain hooks.

This is what the engines are judged by, so it shares no code with them (`precompute.sweep`): a hook
clears a head's slice on its way into the site, and the model runs from the pixels to its outputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precompute.anatomy import Anatomy, Attention
from precompute.models import Vit

Pixels = Float[Tensor, "image channel y x"]
Head = tuple[int, int]
"""Layer and head."""

SECONDS = 10.0
"""For all hooked passes together; a model whose single pass takes long gets fewer."""
MOST_HEADS = 12
SLOW_PASS = 2.0
"""Seconds; where a pass over all images takes longer, one image must do."""


@dataclass(frozen=True)
class Readout:
    """What the classifier reads, and what it says if there is one."""

    embedding: Float[Tensor, "image embedding"]
    logits: Float[Tensor, "image class"] | None


@dataclass(frozen=True)
class Passage:
    """One attention module in the unpruned pass: what entered its site, and what came out of its
    projection and of itself."""

    layer: int
    attention: Attention
    site: Tensor
    projected: Tensor
    output: Tensor


@dataclass(frozen=True)
class Evidence:
    """`pruned`: the readout with one head cleared. `two`: two heads of different layers, cleared
    together (none where there is but one layer), and `both` the readout without them.
    """

    pixels: Pixels
    unpruned: Readout
    passages: list[Passage]
    pruned: dict[Head, Readout]
    two: tuple[Head, ...]
    both: Readout | None

    @property
    def layers(self) -> dict[int, list[int]]:
        """The heads looked at, by layer."""
        found: dict[int, list[int]] = {}
        for layer, head in self.pruned:
            found.setdefault(layer, []).append(head)
        return found


@torch.no_grad()
def gather(vit: Vit, pixels: Pixels) -> Evidence:
    """Run the model on a few images, unpruned and without single heads, as time allows."""
    looked_at = layers_to_look_at(vit.anatomy)
    started = time.monotonic()
    unpruned, passages = _unpruned(vit, pixels, looked_at)
    seconds = time.monotonic() - started
    if seconds > SLOW_PASS and len(pixels) > 1:
        return gather(vit, pixels[:1])
    chosen = _sample(vit.anatomy, looked_at, int(SECONDS / max(seconds, 1e-3)))
    two = () if len(looked_at) < 2 else (chosen[0], (looked_at[-1], 0))
    return Evidence(pixels, unpruned, passages, {head: without(vit, pixels, [head])
                                                 for head in chosen},
                    two, without(vit, pixels, two) if two else None)


def layers_to_look_at(anatomy: Anatomy) -> list[int]:
    """The first, the middle and the last, and the first of every kind of geometry."""
    kinds: dict[object, int] = {}
    for number, layer in enumerate(anatomy.layers):
        kinds.setdefault(layer.geometry, number)
    return sorted({0, anatomy.depth // 2, anatomy.depth - 1, *kinds.values()})


def _sample(anatomy: Anatomy, layers: list[int], passes: int) -> list[Head]:
    """A head of each layer; a second one while passes are left."""
    first = [(layer, 0) for layer in layers]
    second = [(layer, anatomy.heads[layer] - 1) for layer in layers if anatomy.heads[layer] > 1]
    return sorted(first + second[:max(0, min(passes, MOST_HEADS) - len(first))])


@torch.no_grad()
def without(vit: Vit, pixels: Pixels, heads: Sequence[Head]) -> Readout:
    """A full forward pass in which nothing comes out of these heads."""
    with ExitStack() as stack:
        for layer, head in heads:
            attention, start = _find(vit.anatomy, layer, head)
            stack.callback(attention.site.register_forward_pre_hook(
                lambda _m, args, a=attention, s=start: (_cleared(args[0], s, a.width),)).remove)
        return read(vit, vit.model.forward_features(pixels))


@torch.no_grad()
def read(vit: Vit, features: Tensor) -> Readout:
    """What the model's own head makes of features."""
    model = vit.model
    return Readout(model.forward_head(features, pre_logits=True),
                   model.forward_head(features) if vit.class_names else None)


def _cleared(site: Tensor, start: int, width: int) -> Tensor:
    kept = torch.ones(site.shape[-1], dtype=site.dtype, device=site.device)
    kept[start:start + width] = 0
    return site * kept


def _find(anatomy: Anatomy, layer: int, head: int) -> tuple[Attention, int]:
    """The attention module that has the head, and where in its site the head begins."""
    for attention in anatomy.layers[layer].attentions:
        if head < attention.heads:
            return attention, head * attention.width
        head -= attention.heads
    raise ValueError(f"layer {layer} has {anatomy.heads[layer]} heads")


def _unpruned(vit: Vit, pixels: Pixels, layers: list[int]) -> tuple[Readout, list[Passage]]:
    watched = [(layer, attention) for layer in layers
               for attention in vit.anatomy.layers[layer].attentions]
    with ExitStack() as stack:
        caught = [_catch(stack, attention) for _, attention in watched]
        found = read(vit, vit.model.forward_features(pixels))
    return found, [Passage(layer, attention, *parts) for (layer, attention), parts
                   in zip(watched, map(_in_order, caught), strict=True)]


def _catch(stack: ExitStack, attention: Attention) -> dict[str, Tensor]:
    caught: dict[str, Tensor] = {}
    watched: list[tuple[str, nn.Module]] = [("projected", attention.proj),
                                            ("output", attention.module)]
    for name, module in watched:
        stack.callback(module.register_forward_hook(
            lambda _m, _a, output, n=name: caught.update({n: output})).remove)
    stack.callback(attention.site.register_forward_pre_hook(
        lambda _m, args: caught.update(site=args[0])).remove)
    return caught


def _in_order(caught: dict[str, Tensor]) -> Iterator[Tensor]:
    return iter((caught["site"], caught["projected"], caught["output"]))
