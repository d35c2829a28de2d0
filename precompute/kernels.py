"""Faster forwards for the modules that the sweep runs most, with the same result.

Plain pre-norm blocks are taken apart: LayerScale is folded into the weights; norm, GELU and
residual join the matrix product; and the block of the changed head starts behind its attention.
Products are made by the first of MAKERS that this machine has: `precompute.split` on processors
with tiles, oneDNN's on weights packed once (torch keeps that operator to itself, so it is tried on
a small product first), else plain torch (tests/precompute/test_kernels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float
from timm.layers import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from precompute import split
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


@dataclass(frozen=True)
class Affine:
    """norm(x) W^T + b, then perhaps GELU, then plus a residual."""

    weight: Float[Tensor, "out inner"]
    bias: Float[Tensor, " out"] | None
    gelu: bool = False
    norm: Model = field(default_factory=nn.Identity)

    def made(self) -> Product:
        """By the quickest of MAKERS that can be had."""
        return MAKERS[quickest(self.weight)][1](self)


Product = Callable[..., Tensor]
"""Of x and, if wanted, a residual, which is not changed."""


def _split(affine: Affine) -> Product:
    """On tiles, LayerNorm and all."""
    weight, bias, norm = affine.weight, affine.bias, affine.norm
    if not _is_layer_norm(norm) or norm.normalized_shape != weight.shape[1:]:
        product = split.Linear(weight, bias, affine.gelu)
        return lambda x, residual=None: product(norm(x), residual)
    if norm.bias is not None:
        shift = (weight.double() @ norm.bias.double()).float()
        bias = shift if bias is None else bias + shift
    if norm.weight is not None:
        weight = weight * norm.weight
    return split.Linear(weight, bias, affine.gelu, norm.eps)


def _is_layer_norm(norm: Model) -> bool:
    """And no subclass that may do something else."""
    return type(norm) in (nn.LayerNorm, LayerNorm)


def _packed(affine: Affine) -> Product:
    """On weights packed once."""
    packed = torch.ops.mkldnn._reorder_linear_weight(affine.weight.contiguous(), PACKED_ROWS)
    act = "gelu" if affine.gelu else "none"
    return lambda x, residual=None: _added(torch.ops.mkldnn._linear_pointwise(
        affine.norm(x), packed, affine.bias, act, [], "none"), residual)


def _plain(affine: Affine) -> Product:
    """By torch's own operators."""
    act = F.gelu if affine.gelu else nn.Identity()
    return lambda x, residual=None: _added(
        act(F.linear(affine.norm(x), affine.weight, affine.bias)), residual)


def _added(product: Tensor, residual: Tensor | None) -> Tensor:
    return product if residual is None else product.add_(residual)


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


MAKERS: dict[str, tuple[Callable[[], bool], Callable[[Affine], Product]]] = {
    "split": (split.can_split, _split),
    "packed": (can_pack, _packed),
    "plain": (lambda: True, _plain),
}
"""How products of float32 can be made on a CPU, the quickest first: whether that can be had here,
and the maker. The last is for all else too."""


def quickest(weight: Tensor) -> str:
    """The name of the maker for products with such a weight."""
    *_, last = MAKERS
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return last
    return next(name for name, (there, _) in MAKERS.items() if there())


class QuickBlock:
    """timm's plain `Block`, taken apart. Source of the formulas: timm's own forward."""

    def __init__(self, block: Model) -> None:
        attention, mlp = block.attn, block.mlp
        self.norm1 = block.norm1
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.shape = (attention.num_heads, attention.head_dim)
        self._width = attention.attn_dim
        self._weight, self._bias = attention.qkv.weight, attention.qkv.bias
        self.qkv = Affine(self._weight, self._bias, norm=block.norm1).made()
        self.proj = Affine(*_scaled(attention.proj, block.ls1)).made()
        self.mlp = self._taken_apart(mlp, block.norm2, block.ls2)
        self.on_tiles = quickest(self._weight) == "split" \
            and type(self.q_norm) is type(self.k_norm) is nn.Identity

    def forward(self, x: Rows, attn_mask: None = None, is_causal: bool = False) -> Rows:
        qkv = self.qkv(x).unflatten(-1, (3, *self.shape))
        if self.on_tiles:
            return self.finish(x, split.attention(qkv))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.q_norm(query), self.k_norm(key), value)
        return self.finish(x, mixed.transpose(1, 2).flatten(2))

    def finish(self, x: Rows, heads: Rows) -> Rows:
        """From the block's input and its heads, side by side, to its output. The norm over the
        heads is the module itself, at which gates of later layers listen (`precompute.sweep`)."""
        return self.mlp(self.proj(self.norm(heads), x))

    def class_row(self, x: Rows, attn_mask: None = None, is_causal: bool = False,
                  ) -> Float[Tensor, "row 1 dim"]:
        """The output at the first token alone.

        Where keys are linear in the tokens, no key and no value is formed: the query is taken to
        the tokens' side, (W_k^T q) x instead of q (W_k x), in which the key's bias is the same for
        all and cancels; the weights meet the tokens first and the value matrix after.
        """
        normed = self.norm1(x)
        query = self.q_norm(self._query(normed[:, :1]).unflatten(-1, self.shape)).transpose(1, 2)
        if type(self.k_norm) is not nn.Identity:
            keyed = self._keyed(normed).unflatten(-1, (2, *self.shape)).permute(2, 0, 3, 1, 4)
            key, value = self.k_norm(keyed[0]), keyed[1]
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            return self.finish(x[:, :1], mixed)
        key, value = self._weight[self._width:].unflatten(0, (2, *self.shape)).unbind(0)
        asked = torch.einsum("rhc,hcd->rhd", query[:, :, 0], key) * self.shape[1] ** -0.5
        weights = (asked @ normed.transpose(1, 2)).softmax(-1)
        heads = torch.einsum("rhd,hcd->rhc", weights @ normed, value).flatten(1)
        if self._bias is not None:
            heads = heads + self._bias[2 * self._width:]
        return self.finish(x[:, :1], heads[:, None])

    @cached_property
    def _query(self) -> Product:
        return self._part(slice(None, self._width))

    @cached_property
    def _keyed(self) -> Product:
        return self._part(slice(self._width, None))

    def _part(self, rows: slice) -> Product:
        """Of queries, or of keys and values, from tokens that are normalised already."""
        return Affine(self._weight[rows], None if self._bias is None else self._bias[rows]).made()

    def _taken_apart(self, mlp: Model, norm: nn.Module, scale: nn.Module,
                     ) -> Callable[[Rows], Rows]:
        """x + MLP(norm(x)): fc1, GELU and fc2 if the MLP is just that, else the module."""
        known = all(hasattr(mlp, name) for name in ("fc1", "act", "norm", "fc2")) \
            and type(mlp.norm) is nn.Identity and type(mlp.fc1) is nn.Linear \
            and type(mlp).__name__ == "Mlp"
        if not known:
            return lambda x: scale(mlp(norm(x))) + x
        gelu = type(mlp.act) is nn.GELU and mlp.act.approximate == "none"
        act = nn.Identity() if gelu else mlp.act
        first = Affine(mlp.fc1.weight, mlp.fc1.bias, gelu, norm).made()
        second = Affine(*_scaled(mlp.fc2, scale)).made()
        return lambda x: second(act(first(x)), x)


def _scaled(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the LayerScale behind them folded in."""
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return linear.weight, linear.bias
    return linear.weight * gamma[:, None], None if linear.bias is None else linear.bias * gamma
