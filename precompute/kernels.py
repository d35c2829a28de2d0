"""Faster forwards for the modules that the sweep runs most, with the same result.

Plain pre-norm blocks are taken apart: LayerScale is folded into the weights, GELU into the matrix
product, and the block of the changed head starts behind its attention. On a CPU in float32 the
matrix products are oneDNN's, on weights packed once; torch keeps that operator to itself, so it is
tried on a small product first and plain torch takes its place where it is missing or wrong
(tests/precompute/test_kernels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.anatomy import Anatomy, Model

Rows = Float[Tensor, "row token dim"]
PACKED_ROWS = 2048
"""Rows that weights are packed for; products of other sizes are as right, if less quick."""


@dataclass(frozen=True)
class Quick:
    """`forwards` replace those of modules; `finish[layer]` makes a block's output of its input and
    its heads; `class_row` makes the last block's output at the class token alone."""

    forwards: dict[nn.Module, Callable[..., Tensor]] = field(default_factory=dict)
    finish: dict[int, Callable[[Rows, Rows], Rows]] = field(default_factory=dict)
    class_row: Callable[..., Tensor] | None = None


def quicken(model: Model, anatomy: Anatomy) -> Quick:
    """What can be had for this model: whole blocks if they are plain."""
    if not anatomy.plain:
        return Quick()
    blocks = [QuickBlock(layer.block) for layer in anatomy.layers]
    return Quick({layer.block: block.forward
                  for layer, block in zip(anatomy.layers, blocks, strict=True)},
                 {number: block.finish for number, block in enumerate(blocks)},
                 blocks[-1].class_row if anatomy.class_row else None)


class Affine:
    """x W^T + b, then perhaps GELU, on packed weights where that can be had."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight.contiguous(), bias, gelu
        packs = weight.device.type == "cpu" and weight.dtype == torch.float32 and can_pack()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, PACKED_ROWS) \
            if packs else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, "gelu" if self.gelu else "none", [],
                "none")
        product = F.linear(x, self.weight, self.bias)
        return F.gelu(product) if self.gelu else product


@lru_cache(maxsize=1)
def can_pack() -> bool:
    """Whether this torch has oneDNN's packed products, and they are right."""
    x, weight, bias = torch.randn(3, 8, 16), torch.randn(24, 16), torch.randn(24)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
        found = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(x, weight, bias)), rtol=1e-4, atol=1e-5)


class QuickBlock:
    """timm's plain `Block`, taken apart. Source of the formulas: timm's own forward."""

    def __init__(self, block: Model) -> None:
        attention, mlp = block.attn, block.mlp
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.shape = (attention.num_heads, attention.head_dim)
        width = attention.attn_dim
        weight, bias = attention.qkv.weight, attention.qkv.bias
        self.qkv = Affine(weight, bias)
        self.query = Affine(weight[:width], None if bias is None else bias[:width])
        self.keyed = Affine(weight[width:], None if bias is None else bias[width:])
        self.key, self.value = weight[width:].unflatten(0, (2, *self.shape)).unbind(0)
        self.value_bias = None if bias is None else bias[2 * width:]
        self.keys_are_linear = type(self.k_norm) is nn.Identity
        self.proj = Affine(*_scaled(attention.proj, block.ls1))
        self.mlp = self._taken_apart(mlp, block.ls2)

    def forward(self, x: Rows, attn_mask: None = None, is_causal: bool = False) -> Rows:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, *self.shape)).permute(2, 0, 3, 1, 4)
        return self.finish(x, self._attend(*qkv.unbind(0)))

    def finish(self, x: Rows, heads: Rows) -> Rows:
        """From the block's input and its heads, side by side, to its output."""
        after = self.proj(self.norm(heads)).add_(x)
        return self.mlp(self.norm2(after)).add_(after)

    def class_row(self, x: Rows, attn_mask: None = None, is_causal: bool = False,
                  ) -> Float[Tensor, "row 1 dim"]:
        """The output at the first token alone.

        Where keys are linear in the tokens, no key and no value is formed: the query is taken to
        the tokens' side, (W_k^T q) x instead of q (W_k x), in which the key's bias is the same for
        all and cancels; the weights meet the tokens first and the value matrix after.
        """
        normed = self.norm1(x)
        query = self.q_norm(self.query(normed[:, :1]).unflatten(-1, self.shape)).transpose(1, 2)
        if not self.keys_are_linear:
            keyed = self.keyed(normed).unflatten(-1, (2, *self.shape)).permute(2, 0, 3, 1, 4)
            key, value = self.k_norm(keyed[0]), keyed[1]
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            return self.finish(x[:, :1], mixed)
        asked = torch.einsum("rhc,hcd->rhd", query[:, :, 0], self.key) * self.shape[1] ** -0.5
        weights = (asked @ normed.transpose(1, 2)).softmax(-1)
        heads = torch.einsum("rhd,hcd->rhc", weights @ normed, self.value).flatten(1)
        if self.value_bias is not None:
            heads = heads + self.value_bias
        return self.finish(x[:, :1], heads[:, None])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Rows:
        mixed = F.scaled_dot_product_attention(self.q_norm(query), self.k_norm(key), value)
        return mixed.transpose(1, 2).flatten(2)

    def _taken_apart(self, mlp: Model, scale: nn.Module) -> Callable[[Rows], Rows]:
        """fc1, GELU and fc2 if the MLP is just that, else the module with its LayerScale."""
        known = all(hasattr(mlp, name) for name in ("fc1", "act", "norm", "fc2")) \
            and type(mlp.norm) is nn.Identity and type(mlp.fc1) is nn.Linear \
            and type(mlp).__name__ == "Mlp"
        if not known:
            return lambda x: scale(mlp(x))
        gelu = type(mlp.act) is nn.GELU and mlp.act.approximate == "none"
        first = Affine(mlp.fc1.weight, mlp.fc1.bias, gelu)
        second = Affine(*_scaled(mlp.fc2, scale))
        if gelu:
            return lambda x: second(first(x))
        return lambda x: second(mlp.act(first(x)))


def _scaled(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the LayerScale behind them folded in."""
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return linear.weight, linear.bias
    return linear.weight * gamma[:, None], None if linear.bias is None else linear.bias * gamma
