"""Carrying changed heads to the end of the model, exactly.

A changed head leaves everything before its layer as it was. So the clean pass is kept, and every
intervention starts at the site of its layer: the rest of that block, the blocks after it, the head
of the model. The model's own code runs; while it does, what lies before is answered from the clean
pass, and the attention of the layer itself is answered from the changed heads. No engine knows how
a family joins its blocks, so stages, poolings and late class tokens are no cases here.

- *fast* moreover takes timm's plain blocks apart (`precompute.kernels`): no attention in the
  block of the changed head, only the class token's row in the last block where nothing else is
  read, and the machine's quickest exact kernels.
- *tail* runs the model's own blocks.
- *hooks* is a full forward pass per variant: slow, the reference, and the way out for a model that
  keeps more than its blocks' outputs. `precompute.selftest` compares on the user's own images
  before anything is written.

Same numbers as a forward pass per head to float32 rounding (tests/precompute/test_sweep.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precompute.ablation import Variants
from precompute.anatomy import Anatomy, Attention, Layer, Model
from precompute.clean import CleanPass
from precompute.kernels import Quick, quicken

Gates = Mapping[int, Float[Tensor, "variant head"]]
"""For later layers: what every variant's heads are multiplied by, 0 or 1."""

ROW_TOKENS = {"cpu": 3072, "cuda": 262_144}
"""Tokens carried at once: enough to fill the GEMMs, few enough to stay near the cache."""


@dataclass(frozen=True)
class Carried:
    """Where the variants arrive. `features` are what the model's head reads, in its own shape
    behind variant and image (only the class token's, where the engine computes no others);
    `block_output` is what the changed block itself handed on, as a sequence of tokens."""

    features: Float[Tensor, "variant image *rest features"]
    block_output: Float[Tensor, "variant image all_tokens dim"]


@runtime_checkable
class Engine(Protocol):
    """Carries changed head outputs of one layer to the end of the model."""

    def carry(self, clean: CleanPass, layer: int, heads: Variants,
              gates: Gates | None = None) -> Carried: ...


@dataclass(frozen=True)
class Tail:
    """The model's own code, from the changed layer on. `quick` replaces forwards of its modules
    by faster ones with the same result."""

    model: Model
    anatomy: Anatomy
    quick: Quick = field(default_factory=Quick)

    @torch.no_grad()
    def carry(self, clean: CleanPass, layer: int, heads: Variants,
              gates: Gates | None = None) -> Carried:
        variants, images = heads.shape[:2]
        kept: list[Tensor] = []
        with ExitStack() as stack:
            for module, forward in self.quick.forwards.items():
                stack.enter_context(replaced(module, forward))
            self._answer_what_lies_before(stack, clean, layer, variants)
            self._change(stack, layer, heads.flatten(0, 1))
            for later, gate in (gates or {}).items():
                _close(stack, self.anatomy.layers[later], gate.repeat_interleave(images, 0))
            stack.callback(self.anatomy.layers[layer].block.register_forward_hook(
                lambda _m, _a, output: kept.append(output)).remove)
            if self.quick.class_row is not None and layer < self.anatomy.depth - 1:
                stack.enter_context(replaced(self.anatomy.layers[-1].block, self.quick.class_row))
            features = self.model.forward_features(tiled(clean.images, variants))
        return _carried(features, kept[0], variants, images)

    def _answer_what_lies_before(self, stack: ExitStack, clean: CleanPass, layer: int,
                                 variants: int) -> None:
        known = [] if clean.embedded is None else [(self.model.patch_embed, clean.embedded)]
        known += [(self.anatomy.layers[before].block, clean.calls[before].output)
                  for before in range(layer)]
        for module, output in known:
            stack.enter_context(replaced(module, _constant(output, variants)))

    def _change(self, stack: ExitStack, layer: int, heads: Float[Tensor, "row token heads_dim"],
                ) -> None:
        finish = self.quick.finish.get(layer)
        if finish is not None:
            block = self.anatomy.layers[layer].block
            stack.enter_context(replaced(block, lambda x, *_a, **_k: finish(x, heads)))
            return
        for attention, part in _parts(self.anatomy.layers[layer], heads):
            if attention.ends_with_proj:
                stack.enter_context(replaced(attention.module, _projected(
                    self.anatomy.layers[layer], attention, part)))
            else:
                stack.enter_context(exchanged(attention, part))


@dataclass(frozen=True)
class Hooks:
    """A full forward pass per variant, its heads exchanged at the site: slow, and never wrong."""

    model: Model
    anatomy: Anatomy

    @torch.no_grad()
    def carry(self, clean: CleanPass, layer: int, heads: Variants,
              gates: Gates | None = None) -> Carried:
        features, outputs = [], []
        for number, variant in enumerate(heads):
            kept: list[Tensor] = []
            with ExitStack() as stack:
                for attention, part in _parts(self.anatomy.layers[layer], variant):
                    stack.enter_context(exchanged(attention, part))
                for later, gate in (gates or {}).items():
                    _close(stack, self.anatomy.layers[later],
                           gate[number].expand(len(variant), -1))
                stack.callback(self.anatomy.layers[layer].block.register_forward_hook(
                    lambda _m, _a, output, kept=kept: kept.append(output)).remove)
                features.append(self.model.forward_features(clean.images))
            outputs.append(kept[0].reshape(len(variant), -1, kept[0].shape[-1]))
        return Carried(torch.stack(features), torch.stack(outputs))


def make_engine(name: str, model: Model, anatomy: Anatomy) -> Engine:
    """The engine of that name. KeyError if there is none."""
    if name == "hooks":
        return Hooks(model, anatomy)
    return Tail(model, anatomy, {"fast": quicken, "tail": _nothing_quicker}[name](model, anatomy))


def _nothing_quicker(_model: Model, _anatomy: Anatomy) -> Quick:
    return Quick()


@torch.no_grad()
def embed(model: Model, features: Tensor) -> Float[Tensor, "image embedding"]:
    """What the classifier reads."""
    return model.forward_head(features, pre_logits=True)


def tiled(values: Tensor, variants: int) -> Tensor:
    """The same values for every variant: variant by variant, images within; a view if it can."""
    if len(values) == 1:
        return values.expand(variants, *values.shape[1:])
    return values.repeat(variants, *(1 for _ in values.shape[1:]))


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """While inside, the module answers with `forward`; its hooks stay."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@contextmanager
def exchanged(attention: Attention, heads: Float[Tensor, "row token heads_dim"]) -> Iterator[None]:
    """While inside, whatever enters the site is replaced by these head outputs; what a joint
    projection reads beside them stays."""

    def exchange(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        site = args[0]
        found = heads.reshape(*site.shape[:-1], attention.dim)
        beside = site[..., attention.dim:]
        return (found if not beside.shape[-1] else torch.cat([found, beside], dim=-1),)

    handle = attention.site.register_forward_pre_hook(exchange)
    try:
        yield
    finally:
        handle.remove()


def _constant(output: Tensor, variants: int) -> Callable[..., Tensor]:
    return lambda *_args, **_kwargs: tiled(output, variants)


def _projected(layer: Layer, attention: Attention, heads: Float[Tensor, "row token heads_dim"],
               ) -> Callable[..., Tensor]:
    """The attention's output, had its heads been these."""
    queries = layer.geometry.attention_shape[1]
    site = heads.reshape(-1, queries, attention.dim)

    def forward(*_args: object, **_kwargs: object) -> Tensor:
        entering = site if attention.site is attention.proj else attention.site(site)
        return attention.proj(entering)
    return forward


def _parts(layer: Layer, heads: Tensor) -> Iterator[tuple[Attention, Tensor]]:
    """Each attention of a layer with its share of the heads."""
    shares = heads.split([a.dim for a in layer.attentions], dim=-1)
    yield from zip(layer.attentions, shares, strict=True)


def _close(stack: ExitStack, layer: Layer, gates: Float[Tensor, "row head"]) -> None:
    """Multiply the layer's heads by a gate for each row and head."""
    shares = gates.split([a.heads for a in layer.attentions], dim=-1)
    for attention, share in zip(layer.attentions, shares, strict=True):
        stack.callback(attention.site.register_forward_pre_hook(
            lambda _m, args, a=attention, g=share: (gated(a, args[0], g),)).remove)


def gated(attention: Attention, site: Tensor, gates: Float[Tensor, "row head"]) -> Tensor:
    """The input of a site with each head multiplied by its row's gate; rows may be in windows."""
    by_row = gates.repeat_interleave(attention.width, -1)
    by_row = by_row.reshape(len(gates), *(1 for _ in site.shape[1:-1]), attention.dim)
    by_row = by_row.repeat_interleave(len(site) // len(gates), 0)
    beside = site.shape[-1] - attention.dim
    if beside:
        by_row = torch.cat([by_row, by_row.new_ones(*by_row.shape[:-1], beside)], dim=-1)
    return site * by_row


def _carried(features: Tensor, output: Tensor, variants: int, images: int) -> Carried:
    tokens = output.reshape(len(output), -1, output.shape[-1])
    return Carried(features.unflatten(0, (variants, images)),
                   tokens.unflatten(0, (variants, images)))
