"""Float32 on bfloat16 tiles against float64, and no further from it than torch's own float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from precompute import split

SHAPES = [(1, 1, 1), (1, 16, 24), (5, 31, 33), (33, 32, 32), (257, 64, 100), (300, 384, 130),
          (290, 800, 70), (64, 1536, 96)]
"""Rows, inner numbers, columns: less than a tile, whole tiles, a little more, several reaches."""
SEQUENCES = [(1, 1, 1, 8), (2, 5, 3, 12), (3, 33, 2, 64), (1, 257, 2, 64), (2, 50, 3, 80),
             (1, 40, 1, 130)]
"""Rows, tokens, heads, width."""

needs_tiles = pytest.mark.skipif(not split.can_split(),
                                 reason="this processor has no bfloat16 tiles, or no compiler "
                                        "was there when the package was installed")


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _off(found: Tensor, wanted: Tensor) -> float:
    return (torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)).item()


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_as_exact_as_float32(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    x, weight, bias = _drawn(rows, inner), _drawn(columns, inner, seed=1), _drawn(columns, seed=2)
    kept = x.clone()
    found = split.Linear(weight, bias)(x)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    rounded = F.linear(x, weight, bias)
    assert _off(found, wanted) < max(1.5 * _off(rounded, wanted), 1e-7)
    assert torch.equal(x, kept)


@needs_tiles
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("eps", [None, 1e-6, 0.3])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_norm_gelu_and_residual_join_the_product(shape: tuple[int, int, int], eps: float | None,
                                                 gelu: bool) -> None:
    rows, inner, columns = shape
    x, weight = 2 + _drawn(rows, inner), _drawn(columns, inner, seed=1) / inner ** 0.5
    bias, residual = _drawn(columns, seed=2), _drawn(rows, columns, seed=3)
    found = split.Linear(weight, bias, gelu, eps)(x, residual)
    normed = x.double() if eps is None else F.layer_norm(x.double(), (inner,), eps=eps)
    wanted = F.linear(normed, weight.double(), bias.double())
    wanted = (F.gelu(wanted) if gelu else wanted) + residual
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=4e-6)


@needs_tiles
def test_gelu_is_right_from_end_to_end() -> None:
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([-1e4, -0.0, 1e-20, 1e4])])
    found = split.Linear(torch.eye(1), None, gelu=True)(x[:, None])[:, 0]
    wanted = F.gelu(x.double())
    assert ((found - wanted).abs() <= 2.5e-7 * x.abs() + 1e-20).all()


@needs_tiles
def test_numbers_of_all_sizes_keep_their_digits() -> None:
    sizes = 10.0 ** torch.arange(-15, 16)[:, None]
    x, weight = _drawn(31, 64) * sizes, _drawn(40, 64, seed=1)
    wanted = F.linear(x.double(), weight.double())
    found = split.Linear(weight, None)(x)
    assert max(_off(a, b) for a, b in zip(found, wanted, strict=True)) < 5e-7


@needs_tiles
def test_what_is_no_number_stays_in_its_row() -> None:
    x = _drawn(40, 50)
    x[7, 3] = torch.nan
    found = split.Linear(_drawn(60, 50, seed=1), None)(x)
    assert found[7].isnan().all()
    assert not torch.cat([found[:7], found[8:]]).isnan().any()


@needs_tiles
@pytest.mark.parametrize("spread", [0.1, 1.0, 12.0], ids=["flat", "usual", "sharp"])
@pytest.mark.parametrize("sequence", SEQUENCES, ids=str)
def test_attention_is_as_exact_as_float32(sequence: tuple[int, int, int, int], spread: float,
                                          ) -> None:
    rows, tokens, heads, width = sequence
    qkv = _drawn(rows, tokens, 3, heads, width)
    qkv[:, :, 0] *= spread
    kept = qkv.clone()
    wanted = _attended(qkv.double())
    found = split.attention(qkv)
    assert _off(found, wanted) < max(1.5 * _off(_attended(qkv), wanted), 2e-7)
    assert torch.equal(qkv, kept)


def _attended(qkv: Tensor) -> Tensor:
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    weights = (query @ key.transpose(-2, -1) / qkv.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


@needs_tiles
def test_what_is_laid_out_otherwise_is_read_right() -> None:
    x, weight = _drawn(6, 40, 30), _drawn(30, 50, seed=1)
    residual = _drawn(50, 6, 30, seed=2)
    turned = x.transpose(1, 2)[..., :30]
    found = split.Linear(weight[:, :30], None)(turned, residual.transpose(0, 1)[:, :30])
    wanted = turned @ weight[:, :30].T + residual.transpose(0, 1)[:, :30]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_only_float32_is_split(kind: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"float32 on the CPU, not {kind}"):
        split.Linear(torch.ones(2, 2, dtype=kind), None)


def test_without_the_library_nothing_is_split(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(split, "BUILT", tmp_path / "missing.so")
    split._library.cache_clear()
    try:
        assert not split.can_split.__wrapped__()
    finally:
        split._library.cache_clear()


@needs_tiles
@pytest.mark.parametrize("wrong", ["Linear", "attention"])
def test_where_results_are_wrong_nothing_is_split(monkeypatch, wrong: str) -> None:
    right = getattr(split, wrong)
    spoilt = (lambda *args, **kw: lambda x: right(*args, **kw)(x) * 1.01) if wrong == "Linear" \
        else lambda qkv: right(qkv) * 1.01
    monkeypatch.setattr(split, wrong, spoilt)
    assert not split.can_split.__wrapped__()
