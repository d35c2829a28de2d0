"""Direct logits against a sum that must come out: embedding, heads, biases, rest, constant."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest
import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

from precompute.attribution import direct_logits, logit_directions
from precompute.clean import CleanPass, clean_pass
from precompute.heads import measure_heads
from precompute.readout import Native
from tests.precompute import slow
from tests.precompute.vits import KINDS, as_subject, as_vit, batch_of, built, images, tiny

LINEAR = ["class token", "registers", "average pooling", "average pooling beside a class token",
          "average pooling, norm before", "layer scale", "norm over joined heads",
          "norms everywhere", "no biases", "gated linear MLP", "parallel scaling",
          "parallel scaling, one projection", "parallel things",
          "parallel things, norm over joined heads", "DeiT-3", "BEiT", "BEiT, shared bias",
          "EVA-02", "EVA-02, norm in the MLP", "EVA-02, norm over joined heads",
          "EVA-02, rotary attention", "relative positions", "relative positions, class token",
          "relative positions, class token unread", "DINOv2 with registers", "DINOv3", "rotary",
          "rotary, registers", "hybrid", "CLIP", "NaFlex"]
NOT_LINEAR = ["attention pooling", "no classifier", "post-norm", "gated",
              "gated, norm over joined heads", "DeiT distilled", "EVA-02, post-norm",
              "relative positions, post-norm", "perception encoder", "AIM", "CaiT", "ConViT",
              "SAM", "Swin", "Swin-V2", "PiT", "PiT distilled", "Qwen3", "DeepSeek"]


def _direct(model: nn.Module, clean: CleanPass, classes: Tensor) -> tuple[Tensor | None, list]:
    """The directions of these classes' logits, and what each layer's heads add."""
    anatomy = as_vit(model).anatomy
    directions = logit_directions(model, anatomy, clean,
                                  Native(model).rows(classes, torch.arange(len(classes))))
    return directions, [direct_logits(anatomy, clean, layer, directions)
                        for layer in range(anatomy.depth)]


def _streams(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The tokens before the first block, and after each."""
    found: list[Tensor] = []
    with ExitStack() as stack:
        stack.callback(model.blocks[0].register_forward_pre_hook(
            lambda _m, args: found.append(args[0])).remove)
        for block in model.blocks:
            stack.callback(block.register_forward_hook(
                lambda _m, _args, output: found.append(output)).remove)
        slow.outcome(model, pixels)
    return found


def _projection(module: nn.Module) -> nn.Linear:
    return next(found for name in ("proj", "attn_out_proj", "out_proj")
                if (found := getattr(module, name, None)) is not None)


def _dim(module: nn.Module) -> int:
    """How many numbers its heads put out: all that enter, but where an MLP shares the projection.
    """
    joint = getattr(module, "out_proj", None) is not None
    return module.num_heads * module.head_dim if joint else _projection(module).in_features


def _gamma(model: nn.Module, layer: int, number: int) -> Tensor | float:
    """LayerScale of one of a layer's attentions, by its parameter's name."""
    names = ("ls1.gamma", "gamma_1", "ls.gamma", f"attns.{number}.ls.gamma")
    named = [p for name, p in model.blocks[layer].named_parameters() if name in names]
    assert len(named) <= 1
    return named[0] if named else 1.0


def _biases(model: nn.Module, layer: int) -> Tensor | float:
    """What a layer's attention adds whatever its heads put out: biases of norm and projection."""
    total: Tensor | float = 0.0
    for number, module in enumerate(slow.places(model)[layer]):
        proj = _projection(module)
        norm = getattr(getattr(module, "norm", None), "bias", None)
        added = 0.0 if proj.bias is None else proj.bias
        added = added + (0.0 if norm is None else proj.weight @ norm)
        total = total + _gamma(model, layer, number) * added
    return total


@torch.no_grad()
def _added(model: nn.Module, pixels: Tensor, layer: int) -> Tensor:
    """What a layer's attention adds to the stream: its heads, as its projection meets them, alone
    through the projection and LayerScale."""
    found: list[Tensor] = []

    def project(dim: int, gamma: Tensor | float, proj: nn.Linear, args: tuple[Tensor]) -> None:
        added = args[0][..., :dim] @ proj.weight[:, :dim].T
        found.append(gamma * (added if proj.bias is None else added + proj.bias))

    with ExitStack() as stack:
        for number, module in enumerate(slow.places(model)[layer]):
            stack.callback(_projection(module).register_forward_pre_hook(
                partial(project, _dim(module), _gamma(model, layer, number))).remove)
        slow.outcome(model, pixels)
    return sum(found)


def _frozen(model: nn.Module, pixels: Tensor, tokens: Tensor) -> Tensor:
    """The logits had the last block put out these tokens, every later norm's scale held at what
    it is on these images."""
    scales: dict[nn.Module, Tensor] = {}
    norms = [m for m in (model.norm, getattr(model, "fc_norm", None))
             if isinstance(m, nn.LayerNorm)]

    def record(norm: nn.Module, args: tuple[Tensor]) -> None:
        scales[norm] = (args[0].var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()

    def hold(norm: nn.Module, args: tuple[Tensor], _output: Tensor) -> Tensor:
        centred = args[0] - args[0].mean(-1, keepdim=True)
        return centred / scales[norm] * norm.weight + norm.bias

    with ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.register_forward_pre_hook(record).remove)
        slow.outcome(model, pixels)
    assert len(scales) == len(norms) > 0
    with ExitStack() as stack:
        stack.callback(model.blocks[-1].register_forward_hook(lambda *_args: tokens).remove)
        for norm in norms:
            stack.callback(norm.register_forward_hook(hold).remove)
        return model.forward_head(model.forward_features(pixels))


@pytest.mark.parametrize("name", LINEAR)
@torch.no_grad()
def test_all_parts_add_up_to_the_logit(name: str) -> None:
    """Exactly, in float64; the constant is the frozen readout of no tokens at all, and each
    layer's heads with their biases are what its attention adds."""
    model = copy.deepcopy(built(name, KINDS[name].sizes[-1])).double()
    pixels = images(model, 3).double()
    clean = clean_pass(model, as_vit(model).anatomy, pixels)
    logits = slow.outcome(model, pixels)[1]
    top = logits.argmax(-1)
    directions, heads = _direct(model, clean, top)

    def along(change: Tensor) -> Tensor:
        return (directions * change).sum((1, 2))

    streams = _streams(model, pixels)
    constant = _frozen(model, pixels, torch.zeros_like(streams[-1]))[range(3), top]
    total = along(streams[0]) + constant
    for layer, (before, after) in enumerate(pairwise(streams)):
        added = _added(model, pixels, layer)
        biases = along(_biases(model, layer) + torch.zeros_like(added))
        torch.testing.assert_close(heads[layer].sum(1) + biases, along(added))
        total = total + heads[layer].sum(1) + biases + along(after - before - added)
    torch.testing.assert_close(total, logits[range(3), top])
    assert torch.stack([h.abs().max() for h in heads]).min() > 1e-3


@pytest.mark.parametrize("name", ["class token", "average pooling", "EVA-02", "BEiT"])
@torch.no_grad()
def test_directions_are_the_slope_of_the_frozen_readout(name: str) -> None:
    model = copy.deepcopy(built(name)).double()
    pixels = images(model, 2).double()
    clean = clean_pass(model, as_vit(model).anatomy, pixels)
    classes = torch.tensor([1, 4])
    directions, _ = _direct(model, clean, classes)
    tokens = clean.calls[-1].output
    nudge = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2)).double()
    before, after = (_frozen(model, pixels, t)[range(2), classes] for t in (tokens, tokens + nudge))
    torch.testing.assert_close((directions * nudge).sum((1, 2)), after - before)


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_direct_logits_are_undefined_where_the_readout_or_a_block_is_not_linear(name: str) -> None:
    model = built(name)
    clean = clean_pass(model, as_vit(model).anatomy, images(model, 2))
    _, heads = _direct(model, clean, torch.tensor([0, 1]))
    assert heads == [None] * len(slow.places(model))


def test_direct_logits_are_undefined_behind_a_norm_that_we_cannot_freeze() -> None:
    """RMS norm over the heads, and none in the readout."""
    model = tiny(norm_layer=RmsNorm, scale_attn_norm=True, final_norm=False, fc_norm=False)
    clean = clean_pass(model, as_vit(model).anatomy, images(model, 2))
    _, heads = _direct(model, clean, torch.tensor([0, 1]))
    assert heads == [None] * 3


@pytest.mark.parametrize(("name", "known"), [("BEiT", True), ("Swin", False)])
def test_direct_logits_are_stored_for_the_top_class_or_not_at_all(name: str, known: bool) -> None:
    model = built(name)
    batch = batch_of(model, 2)
    rows = measure_heads(as_subject(model), batch)["head_scores"].to_pylist()
    if not known:
        assert {row["direct_logit"] for row in rows} == {None}
        return
    clean = clean_pass(model, as_vit(model).anatomy, batch.pixels)
    _, heads = _direct(model, clean, slow.outcome(model, batch.pixels)[1].argmax(-1))
    for row in rows:
        wanted = heads[row["layer"]][row["image"], row["head"]].item()
        assert row["direct_logit"] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
