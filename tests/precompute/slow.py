"""Slow references, written apart from the engine: they share no code with it and walk a model in
their own way. Every change is a full forward pass through hooks; where attention is taken by hand,
it is NumPy on the weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

Head = tuple[int, int]
Outcome = tuple[Tensor, Tensor | None]
"""Embedding and logits."""

CLASS, OTHER, PATCH = "class", "other", "patch"


@lru_cache(maxsize=16)
def places(model: nn.Module) -> list[list[nn.Module]]:
    """The attention modules of each block, in the order in which they run."""
    found: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        block = re.match(r"(?:.*?\.)?blocks(?:_token_only)?\.\d+", name)
        if block and hasattr(module, "num_heads") and hasattr(module, "attn_drop"):
            found.setdefault(block[0], []).append(module)
    return list(found.values())


def heads_of(model: nn.Module) -> list[Head]:
    """Every (layer, head)."""
    return [(layer, head) for layer, modules in enumerate(places(model))
            for head in range(sum(m.num_heads for m in modules))]


def locate(model: nn.Module, layer: int, head: int) -> tuple[nn.Module, int]:
    """The attention module of a head, and its number in there."""
    for module in places(model)[layer]:
        if head < module.num_heads:
            return module, head
        head -= module.num_heads
    raise IndexError(head)


def _entrance(module: nn.Module) -> tuple[nn.Module, int]:
    """Where the heads' outputs stand side by side, before anything mixes them; their width."""
    if hasattr(module, "in_split"):  # a block that is its own attention
        return module.attn_out_proj or module.out_proj, module.head_dim
    norm = getattr(module, "norm", None)
    width = module.proj.in_features // module.num_heads
    return (module.proj if norm is None else norm), width


def _slices(model: nn.Module, heads: Iterable[Head]) -> Iterator[tuple[Head, nn.Module, slice]]:
    for layer, head in heads:
        module, number = locate(model, layer, head)
        where, width = _entrance(module)
        yield (layer, head), where, slice(number * width, (number + 1) * width)


@torch.no_grad()
def outcome(model: nn.Module, images: Tensor) -> Outcome:
    features = model.forward_features(images)
    logits = model.forward_head(features) if model.num_classes else None
    return model.forward_head(features, pre_logits=True), logits


def changed(model: nn.Module, images: Tensor, changes: Mapping[Head, Tensor | float]) -> Outcome:
    """The outcome when these heads put out something else: a number, or what `grabbed` gives."""
    with ExitStack() as stack:
        for head, where, part in _slices(model, changes):
            def change(_module, args, part=part, value=changes[head]):
                joined = args[0].clone()
                joined[..., part] = value
                return joined
            stack.callback(where.register_forward_pre_hook(change).remove)
        return outcome(model, images)


def without(model: nn.Module, images: Tensor, heads: Iterable[Head]) -> Outcome:
    """The outcome with all these heads set to 0."""
    return changed(model, images, dict.fromkeys(heads, 0.0))


def only(model: nn.Module, images: Tensor, layer: int, head: int) -> Outcome:
    """The outcome with all other heads of the layer set to 0."""
    return without(model, images, [h for h in heads_of(model) if h[0] == layer and h[1] != head])


def whole_layer(model: nn.Module, images: Tensor, layer: int) -> Outcome:
    return without(model, images, [h for h in heads_of(model) if h[0] == layer])


def grabbed(model: nn.Module, images: Tensor) -> dict[Head, Tensor]:
    """What every head puts out on these images."""
    found: dict[Head, Tensor] = {}
    with ExitStack() as stack:
        for head, where, part in _slices(model, heads_of(model)):
            def grab(_module, args, head=head, part=part):
                found[head] = args[0][..., part].clone()
            stack.callback(where.register_forward_pre_hook(grab).remove)
        outcome(model, images)
    return found


def average(grab: Mapping[Head, Tensor], images: int, copies: int) -> dict[Head, Tensor]:
    """The mean over the images that were grabbed from, for so many others; windows stay apart."""
    return {head: value.unflatten(0, (images, -1)).mean(0).repeat(
        copies, *(1 for _ in value.shape[1:])) for head, value in grab.items()}


def reference(model: nn.Module, images: Tensor, layer: int, head: int) -> Tensor:
    """The embedding after one head is set to 0."""
    return without(model, images, [(layer, head)])[0]


Kinds = Callable[[int], list[str]]
"""What the tokens of a sequence of so many are: CLASS, OTHER or PATCH."""


def removed(mode: str, queries: list[str], keys: list[str]) -> np.ndarray:
    """Which weights a mode of partial pruning removes, weight by weight from its definition."""
    def gone(query: int, key: int) -> bool:
        asks, answers = queries[query] == CLASS, keys[key] == CLASS
        patches = queries[query] == PATCH and keys[key] == PATCH
        return {"none": False, "head": True, "cls": asks or answers, "patches": patches,
                "cls_patches": asks != answers, "cls_self": asks and answers, "cls_row": asks,
                "cls_column": answers, "patch_self": patches and query == key,
                "patch_others": patches and query != key}[mode]
    return np.array([[gone(q, k) for k in range(len(keys))] for q in range(len(queries))])


def masked(model: nn.Module, images: Tensor, head: Head, mode: str, kinds: Kinds) -> Outcome:
    """The outcome when the mode's part of one head's attention is 0, by a hook on its dropout."""
    module, number = locate(model, *head)

    def mask(_module, args):
        weights = args[0]
        flat = weights.reshape(-1, module.num_heads, *weights.shape[-2:]).clone()
        gone = removed(mode, kinds(flat.shape[-2]), kinds(flat.shape[-1]))
        flat[:, number][:, torch.tensor(gone)] = 0
        return flat.reshape(weights.shape)

    handle = module.attn_drop.register_forward_pre_hook(mask)
    try:
        with shown(module):
            return outcome(model, images)
    finally:
        handle.remove()


def scaled(model: nn.Module, images: Tensor, head: Head, factor: float) -> Outcome:
    """The outcome when a head puts out so many times as much."""
    return changed(model, images, {head: factor * grabbed(model, images)[head]})


@contextmanager
def shown(module: nn.Module) -> Iterator[None]:
    """Its attention passes through the dropout while inside."""
    fused = getattr(module, "fused_attn", None)
    if fused is None:
        yield
        return
    module.fused_attn = False
    try:
        yield
    finally:
        module.fused_attn = fused


def masked_by_hand(model: nn.Module, images: Tensor, head: Head, mode: str,
                   kinds: Kinds) -> Outcome:
    """The same with the whole attention module written out in NumPy, from its weights."""
    module, number = locate(model, *head)

    def answer(_module, args, kwargs, output):
        mask = kwargs.get("mask")
        rows = [_attention(module, x.double().numpy(), number,
                           removed(mode, kinds(len(x)), kinds(len(x))),
                           0 if mask is None else mask[i % len(mask)].numpy())
                for i, x in enumerate(args[0])]
        return torch.tensor(np.stack(rows)).to(output)

    handle = module.register_forward_hook(answer, with_kwargs=True)
    try:
        return outcome(model, images)
    finally:
        handle.remove()


def _attention(module: nn.Module, x: np.ndarray, head: int, gone: np.ndarray,
               mask: np.ndarray | int) -> np.ndarray:
    """One sequence through attention, the head's weights removed where `gone`."""
    mixed = [_head(module, x, h, gone & (h == head), mask) for h in range(module.num_heads)]
    joined = np.concatenate(mixed, axis=1)
    bias = 0 if module.proj.bias is None else _array(module.proj.bias)
    return joined @ _array(module.proj.weight).T + bias


def _head(module: nn.Module, x: np.ndarray, head: int, gone: np.ndarray,
          mask: np.ndarray | int) -> np.ndarray:
    width = module.proj.in_features // module.num_heads
    query, key, value = (x @ weight[head * width:(head + 1) * width].T
                         + bias[head * width:(head + 1) * width]
                         for weight, bias in zip(*_three(module), strict=True))
    scores = query @ key.T / np.sqrt(width) + _bias(module, head, len(x)) + mask
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    weights[gone] = 0
    return weights @ value


def _three(module: nn.Module) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and biases of queries, keys and values."""
    weight = np.split(_array(module.qkv.weight), 3)
    if module.qkv.bias is not None:
        return weight, np.split(_array(module.qkv.bias), 3)
    nothing = np.zeros(len(weight[0]))
    if getattr(module, "q_bias", None) is None:
        return weight, [nothing] * 3
    return weight, [_array(module.q_bias), nothing, _array(module.v_bias)]


def _bias(module: nn.Module, head: int, tokens: int) -> np.ndarray | int:
    """The learnt bias of relative positions, number by number; a class token has its own three."""
    table = getattr(module, "relative_position_bias_table", None)
    if table is None:
        return 0
    values = _array(table)[:, head]
    height, width = module.window_size
    classes = tokens - height * width

    def of(query: int, key: int) -> float:
        if query < classes or key < classes:
            return values[-1 if query == key else -3 if query < classes else -2]
        (r, c), (s, d) = (divmod(token - classes, width) for token in (query, key))
        return values[(r - s + height - 1) * (2 * width - 1) + c - d + width - 1]
    return np.array([[of(q, k) for k in range(tokens)] for q in range(tokens)])


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()
