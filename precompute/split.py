"""Float32 on a processor's bfloat16 tiles: the Python side of `native/tiles.h`, which says how.

The library is built with the package where there is a C compiler. Where it is missing, or the
processor or the system has no tiles, or its results are not float32's, nothing here is used.
"""

from __future__ import annotations

import ctypes
import sysconfig
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

BUILT = Path(__file__).parent / f"_split{sysconfig.get_config_var('EXT_SUFFIX')}"
CLOSE = 1e-5
"""Largest difference on numbers of order one that rounding may make: 1e-6 was measured."""


class Linear:
    """x W^T + b on tiles, after a LayerNorm without weights if `eps` is given, with GELU behind it
    if asked. ValueError for anything but float32 on the CPU."""

    def __init__(self, weight: Float[Tensor, "out inner"], bias: Float[Tensor, " out"] | None,
                 gelu: bool = False, eps: float | None = None) -> None:
        _check(weight)
        self.columns, self.inner = weight.shape
        self.bias = None if bias is None else bias.detach().contiguous()
        self.gelu, self.eps = gelu, -1.0 if eps is None else eps
        whole = weight.detach().contiguous()
        self._weight = torch.empty(
            _library().split_size(self.inner, self.columns), dtype=torch.uint8)
        _done(_library().split_pack(_at(whole), self.inner, self.columns, _at(self._weight)))

    def __call__(self, x: Float[Tensor, "*rows inner"],
                 residual: Float[Tensor, "*rows out"] | None = None,
                 ) -> Float[Tensor, "*rows out"]:
        """The map of x, plus the residual."""
        _check(x)
        x = x.contiguous()
        residual = None if residual is None else residual.contiguous()
        found = x.new_empty(*x.shape[:-1], self.columns)
        _done(_library().split_linear(
            _at(x), found.numel() // self.columns, self.inner, _at(self._weight), self.columns,
            _at(self.bias), _at(residual), self.gelu, self.eps, _at(found)))
        return found


def attention(qkv: Float[Tensor, "row token 3 head width"],
              ) -> Float[Tensor, "row token head_width"]:
    """softmax(q k^T / sqrt(width)) v, heads side by side."""
    _check(qkv)
    qkv = qkv.contiguous()
    rows, tokens, _, heads, width = qkv.shape
    found = qkv.new_empty(rows, tokens, heads * width)
    _done(_library().split_attention(_at(qkv), rows, tokens, heads, width, _at(found)))
    return found


@lru_cache(maxsize=1)
def can_split() -> bool:
    """Whether this machine multiplies float32 on tiles, and does it right."""
    try:
        if not _library().split_ready():
            return False
        draw = torch.Generator().manual_seed(0)
        x, weight = torch.randn(35, 40, generator=draw), torch.randn(50, 40, generator=draw) / 6
        qkv = torch.randn(2, 35, 3, 2, 24, generator=draw)
        found = Linear(weight, weight[:, 0], gelu=True, eps=1e-6)(x), attention(qkv)
    except (OSError, AttributeError, MemoryError):
        return False
    normed = F.layer_norm(x.double(), x.shape[-1:], eps=1e-6)
    wanted = F.gelu(F.linear(normed, weight.double(), weight[:, 0].double()))
    query, key, value = qkv.double().permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(query, key, value)
    pairs = zip(found, (wanted, mixed.transpose(1, 2).flatten(2)), strict=True)
    return all((a - b).abs().max().item() < CLOSE for a, b in pairs)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """Raises OSError if it was not built."""
    library = ctypes.CDLL(str(BUILT))
    number, at, whole, real = ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    library.split_size.restype = number
    for name, kinds in {
        "split_size": [number, number],
        "split_pack": [at, number, number, at],
        "split_linear": [at, number, number, at, number, at, at, whole, real, at],
        "split_attention": [at, number, number, number, number, at],
    }.items():
        getattr(library, name).argtypes = kinds
    return library


def _at(values: Tensor | None) -> int | None:
    """Where it lies; whoever asks keeps the tensor while that is used."""
    return None if values is None else values.data_ptr()


def _check(values: Tensor) -> None:
    if values.dtype != torch.float32 or values.device.type != "cpu":
        raise ValueError(f"tiles multiply float32 on the CPU, not {values.dtype} on "
                         f"{values.device}")


def _done(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for a product")
