"""The sweep: every head of every block ablated, on a batch of images, exactly.

A pruned head leaves everything before its block as it was. So the clean pass is kept, and the
variants of a block start at its site: the rest of that block, the blocks after it, the head of
the model.

- *tail* carries them block by block. timm's own blocks (`Anatomy.plain`) do not compute attention
  again where the head was pruned; other blocks run again with the heads exchanged at the site.
- *tail-class-row* moreover computes only the class token's row in the last block, where nothing
  else is read after it.
- *hooks* is a full forward pass per head: slow, used where a model is more than its blocks in
  sequence. `choose_engine` compares on the user's own images before anything is written.

Same numbers as a forward pass per head to float32 rounding (tests/precompute/test_sweep.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.ablation import Ablation, zero
from precompute.anatomy import Anatomy, Model
from precompute.clean import BlockCall, CleanPass

ROW_TOKENS = {"cpu": 4096, "cuda": 262_144}
"""Tokens carried at once: enough to fill the GEMMs, few enough to stay near the cache."""

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Pruned:
    """The outcome of ablating each head of one layer.

    `features` are the tokens after the last norm (only the class token's, where the engine
    computes no others); `block_output` is what the pruned block itself handed on.
    """

    layer: int
    features: Float[Tensor, "head image token dim"]
    block_output: Float[Tensor, "head image all_tokens dim"]


Engine = Callable[[Model, Anatomy, Tensor, CleanPass, Ablation], Iterator[Pruned]]


@torch.no_grad()
def tail_engine(model: Model, anatomy: Anatomy, images: Tensor, clean: CleanPass,
                ablation: Ablation = zero) -> Iterator[Pruned]:
    """Carry variants from their block to the end. Yields one `Pruned` per layer, in order."""
    for layer, call in enumerate(clean.calls):
        count = anatomy.heads[layer]
        parts = [_carry(model, anatomy, clean, layer, ablation(call.heads, count, chosen))
                 for chosen in _chunks(count, call.heads)]
        features, outputs = (torch.cat(p) for p in zip(*parts, strict=True))
        yield Pruned(layer, features, outputs)


@torch.no_grad()
def hooks_engine(model: Model, anatomy: Anatomy, images: Tensor, clean: CleanPass,
                 ablation: Ablation = zero) -> Iterator[Pruned]:
    """A full forward pass per head, its slice exchanged at the site: slow, and never wrong."""
    for layer, call in enumerate(clean.calls):
        count = anatomy.heads[layer]
        passes = [hooked_pass(model, anatomy, images, layer,
                              ablation(call.heads, count, range(head, head + 1))[0])
                  for head in range(count)]
        features, outputs = (torch.stack(p) for p in zip(*passes, strict=True))
        yield Pruned(layer, features, outputs)


@torch.no_grad()
def hooked_pass(model: Model, anatomy: Anatomy, images: Tensor, layer: int,
                heads: Float[Tensor, "image token dim"]) -> tuple[Tensor, Tensor]:
    """Features and block output of a whole forward pass with one block's head outputs exchanged."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        kept.append(output)

    handle = anatomy.blocks[layer].register_forward_hook(keep)
    try:
        with _exchanged(anatomy.site(layer), heads):
            features = model.forward_features(images)
    finally:
        handle.remove()
    return features, kept[0]


ENGINES: dict[str, Engine] = {
    "tail-class-row": tail_engine, "tail": tail_engine, "hooks": hooks_engine}
"""By the name that `models.engine` records. Which rows the last block computes follows from the
model (`Anatomy.class_row`)."""


@torch.no_grad()
def choose_engine(model: Model, anatomy: Anatomy, images: Tensor, clean: CleanPass) -> str:
    """The name of the fastest engine that agrees with a hooked pass on a head of the first, middle
    and last layer, for these very images."""
    for layer in sorted({0, anatomy.layers // 2, anatomy.layers - 1}):
        call = clean.calls[layer]
        changed = zero(call.heads, anatomy.heads[layer], range(1))
        try:
            features, _ = _carry(model, anatomy, clean, layer, changed)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return "hooks"
        wanted, _ = hooked_pass(model, anatomy, images, layer, changed[0])
        if not _close(embed(model, features[0]), embed(model, wanted)):
            return "hooks"
    return "tail-class-row" if anatomy.class_row else "tail"


@torch.no_grad()
def embed(model: Model, features: Float[Tensor, "image token dim"],
          ) -> Float[Tensor, "image embedding"]:
    """What the classifier reads."""
    return model.forward_head(features, pre_logits=True)


def _carry(model: Model, anatomy: Anatomy, clean: CleanPass, layer: int,
           heads: Float[Tensor, "variant image token dim"]) -> tuple[Tensor, Tensor]:
    """The variants' features and their block outputs, from changed head outputs of one block."""
    variants, images = heads.shape[:2]
    output = _rest_of_block(anatomy, layer, clean.calls[layer], heads.flatten(0, 1))
    carried = output
    for later in range(layer + 1, anatomy.layers):
        block, call = anatomy.blocks[later], clean.calls[later]
        if anatomy.class_row and later == anatomy.layers - 1:
            carried = _class_row(block, carried)
        else:
            carried = block(carried, *call.args, **call.kwargs)
    if anatomy.class_row:
        carried = carried[:, :1]
    features = model.norm(carried)
    return features.unflatten(0, (variants, images)), output.unflatten(0, (variants, images))


def _rest_of_block(anatomy: Anatomy, layer: int, call: BlockCall,
                   heads: Float[Tensor, "row token dim"]) -> Float[Tensor, "row token dim"]:
    """A block's output from its clean input and changed head outputs."""
    block = anatomy.blocks[layer]
    tokens = call.tokens.repeat(len(heads) // len(call.tokens), 1, 1)
    if not anatomy.plain:
        with _exchanged(anatomy.site(layer), heads):
            return block(tokens, *call.args, **call.kwargs)
    return _mlp(block, tokens + block.ls1(block.attn.proj(block.attn.norm(heads))))


def _mlp(block: Model, tokens: Float[Tensor, "row token dim"],
         ) -> Float[Tensor, "row token dim"]:
    """The second half of a pre-norm block."""
    return tokens + block.ls2(block.mlp(block.norm2(tokens)))


def _class_row(block: Model, tokens: Float[Tensor, "row token dim"],
               ) -> Float[Tensor, "row 1 dim"]:
    """A plain block's output for the class token alone: one query, all keys and values."""
    attention = block.attn
    normed = block.norm1(tokens)
    width = attention.attn_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
    keyed = F.linear(normed, weight[width:], None if bias is None else bias[width:])
    shape = (attention.num_heads, attention.head_dim)
    query = query.unflatten(-1, shape).transpose(1, 2)
    key, value = keyed.unflatten(-1, (2, *shape)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(attention.q_norm(query), attention.k_norm(key), value)
    heads = mixed.transpose(1, 2).flatten(2)
    return _mlp(block, tokens[:, :1] + block.ls1(attention.proj(attention.norm(heads))))


@contextmanager
def _exchanged(site: nn.Module, heads: Tensor) -> Iterator[None]:
    """While inside, whatever enters the site is replaced by these head outputs."""
    handle = site.register_forward_pre_hook(lambda _module, _args: (heads,))
    try:
        yield
    finally:
        handle.remove()


def _chunks(count: int, heads: Float[Tensor, "image token dim"]) -> Iterator[range]:
    """Heads to carry together, about ROW_TOKENS tokens at a time."""
    images, tokens, _ = heads.shape
    step = max(1, ROW_TOKENS[heads.device.type] // (images * tokens))
    for start in range(0, count, step):
        yield range(start, min(start + step, count))


def _close(found: Tensor, wanted: Tensor) -> bool:
    size = torch.linalg.vector_norm(wanted, dim=-1).clamp_min(1e-12)
    off = torch.linalg.vector_norm(found - wanted, dim=-1)
    return bool((off / size).max() < TOLERANCE)
