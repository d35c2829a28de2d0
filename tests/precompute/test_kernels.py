"""Blocks taken apart against timm's own, with packed weights and without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers import GluMlp, LayerNorm, RmsNorm, SwiGLU, SwiGLUPacked
from torch import nn
from torch.nn import functional as F

from precompute import kernels
from precompute.ablation import one_each, zero
from precompute.clean import clean_pass
from precompute.kernels import MAKERS, Affine, QuickBlock, can_pack, quicken, quickest
from precompute.sweep import make_engine
from tests.precompute import slow
from tests.precompute.vits import as_vit, built, images, tiny, untouched

BLOCKS: dict[str, dict] = {
    "plain": {},
    "layer scale": dict(init_values=0.5),
    "no biases": dict(qkv_bias=False, proj_bias=False),
    "no biases, layer scale": dict(qkv_bias=False, proj_bias=False, init_values=0.5),
    "query and key norm": dict(qk_norm=True),
    "norm over joined heads": dict(scale_attn_norm=True),
    "norm in the MLP": dict(scale_mlp_norm=True, init_values=0.5),
    "RMS norm": dict(norm_layer=RmsNorm, qk_norm=True, scale_attn_norm=True),
    "SwiGLU": dict(mlp_layer=SwiGLU, init_values=0.5),
    "packed SwiGLU": dict(mlp_layer=SwiGLUPacked),
    "gated linear unit": dict(mlp_layer=partial(GluMlp, gate_last=False), init_values=0.5),
    "approximate GELU": dict(act_layer="gelu_tanh"),
    "quick GELU": dict(act_layer="quick_gelu", init_values=0.5),
    "another activation": dict(act_layer=nn.ReLU),
    "wide MLP": dict(mlp_ratio=7.0),
    "one head": dict(num_heads=1),
}


@pytest.fixture(params=list(MAKERS))
def maker(request, monkeypatch) -> str:
    """One way to make products, as if it were the only one."""
    there, made = MAKERS[request.param]
    if not there():
        pytest.skip(f"this machine, or this torch, has no {request.param} products")
    only = {request.param: (there, made), "last": MAKERS["plain"]}
    monkeypatch.setattr(kernels, "MAKERS", only)
    return request.param


def _rows(tokens: int = 17, rows: int = 5, width: int = 24) -> torch.Tensor:
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_block_taken_apart_gives_what_the_block_gives(name: str, maker: str) -> None:
    block = tiny(**BLOCKS[name]).blocks[1]
    with untouched(block):
        quick = QuickBlock(block)
        for tokens, rows in ((17, 5), (1, 1), (17, 300)):
            x = _rows(tokens, rows)
            kept, wanted = x.clone(), block(x)
            assert (wanted - x).abs().mean() > 0.3, "a block that does nothing proves nothing"
            torch.testing.assert_close(quick.forward(x), wanted, rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(quick.class_row(x), wanted[:, :1], rtol=1e-4, atol=2e-5)
            assert torch.equal(x, kept), "what a block was given is not its own to change"


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_block_finished_from_other_heads_gives_what_a_hooked_block_gives(
        name: str, maker: str) -> None:
    block = tiny(**BLOCKS[name]).blocks[1]
    x, heads = _rows(), _rows() + 1
    handle = block.attn.norm.register_forward_pre_hook(lambda _m, _args: heads)
    wanted = block(x)
    handle.remove()
    before = heads.clone()
    torch.testing.assert_close(QuickBlock(block).finish(x, heads), wanted, rtol=1e-4, atol=2e-5)
    assert torch.equal(heads, before)
    assert (wanted - block(x)).abs().mean() > 0.1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 2048), (4, 5, 6)], ids=str)
def test_an_affine_map_is_a_product_and_a_bias(shape: tuple, gelu: bool, bias: bool,
                                               maker: str) -> None:
    draw = torch.Generator().manual_seed(4)
    weight, offset = torch.randn(24, 16, generator=draw), torch.randn(24, generator=draw)
    x = torch.randn(*shape, 16, generator=draw)
    residual = torch.randn(*shape, 24, generator=draw)
    product = Affine(weight, offset if bias else None, gelu).made()
    wanted = F.linear(x.double(), weight.double(), offset.double() if bias else None)
    wanted = (F.gelu(wanted) if gelu else wanted).float()
    torch.testing.assert_close(product(x), wanted, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(product(x, residual), wanted + residual, rtol=1e-4, atol=2e-5)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "LayerNorm": partial(nn.LayerNorm, 24, eps=1e-3),
    "timm's": partial(LayerNorm, 24),
    "without bias": partial(nn.LayerNorm, 24, bias=False),
    "without weights": partial(nn.LayerNorm, 24, elementwise_affine=False),
    "RMS": partial(RmsNorm, 24),
    "over more": partial(nn.LayerNorm, (5, 24)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_a_norm_may_stand_before_an_affine_map(name: str, bias: bool, maker: str) -> None:
    draw = torch.Generator().manual_seed(6)
    weight, offset = torch.randn(32, 24, generator=draw), torch.randn(32, generator=draw)
    x, norm = 3 + 2 * torch.randn(3, 5, 24, generator=draw), NORMS[name]()
    for parameter in norm.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    kept, product = x.clone(), Affine(weight, offset if bias else None, norm=norm).made()
    torch.testing.assert_close(product(x), F.linear(norm(x), weight, offset if bias else None),
                               rtol=1e-4, atol=1e-4)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("there", [["split", "packed"], ["packed"], []], ids=str)
def test_the_quickest_products_that_can_be_had_are_taken(monkeypatch, there: list[str]) -> None:
    for name in ("split", "packed"):
        monkeypatch.setitem(MAKERS, name, (lambda name=name: name in there, MAKERS[name][1]))
    assert quickest(torch.ones(1)) == [*there, "plain"][0]
    assert quickest(torch.ones(1).double()) == quickest(torch.ones(1).bfloat16()) == "plain"


def test_an_affine_map_of_part_of_a_matrix_is_that_part(maker: str) -> None:
    """Rows of a larger weight, and its transpose: neither is laid out as packing expects."""
    whole = torch.randn(48, 24, generator=torch.Generator().manual_seed(5))
    x = _rows()
    for weight in (whole[24:], whole[:24].T):
        found = Affine(weight, None).made()(x)
        torch.testing.assert_close(found, x @ weight.T, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_where_packing_fails_it_is_not_used(monkeypatch, error: type[Exception]) -> None:
    class Missing:
        def _reorder_linear_weight(self, *_args):
            raise error("no such operator")

    monkeypatch.setattr(torch.ops, "mkldnn", Missing())
    assert not can_pack.__wrapped__()


def test_where_packed_products_are_wrong_they_are_not_used(monkeypatch) -> None:
    class Wrong:
        def _reorder_linear_weight(self, weight, _rows):
            return weight

        def _linear_pointwise(self, x, weight, bias, *_args):
            return F.linear(x, weight, bias)  # and no GELU

    monkeypatch.setattr(torch.ops, "mkldnn", Wrong())
    assert not can_pack.__wrapped__()


@pytest.mark.parametrize("name", ["class token", "norms everywhere", "PiT", "gated linear MLP"])
def test_the_fast_engine_is_right_with_all_products(maker: str, name: str) -> None:
    model = built(name)
    anatomy, pixels = as_vit(model).anatomy, images(model, 2)
    clean = clean_pass(model, anatomy, pixels)
    carrier = make_engine("fast", model, anatomy)
    for number, layer in enumerate(anatomy.layers):
        heads = clean.calls[number].heads
        found = carrier.carry(clean, number, one_each(heads, zero(heads), layer, range(1, 2)))
        wanted = slow.reference(model, pixels, number, 1)
        embedding = model.forward_head(found.features[0], pre_logits=True)
        torch.testing.assert_close(embedding, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("name", "quick", "class_row"), [
    ("class token", True, True), ("average pooling", True, False), ("PiT", True, False),
    ("attention pooling", True, False), ("DeiT distilled", True, False), ("gated", False, False),
    ("post-norm", False, False), ("BEiT", False, False), ("Swin", False, False),
    ("parallel things", False, False), ("parallel scaling", False, False), ("CaiT", False, False),
    ("EVA-02", False, False), ("rotary", False, False), ("SAM", False, False)])
def test_only_plain_blocks_are_taken_apart(name: str, quick: bool, class_row: bool) -> None:
    model = built(name)
    found = quicken(model, as_vit(model).anatomy)
    assert (bool(found.forwards), bool(found.finish)) == (quick, quick)
    assert (found.class_row is not None) is class_row
