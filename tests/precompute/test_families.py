"""Where heads are found: every family's layers and geometry; what is refused, and why."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import DiffParallelScalingBlock, VisionTransformer
from torch import nn

from precompute.anatomy import Geometry, Windows
from precompute.clean import clean_pass
from precompute.families import REASONS, dissect
from store.errors import ModelError
from tests.precompute import slow
from tests.precompute.vits import (
    KINDS,
    SIZED,
    TINY,
    VARIANTS,
    as_vit,
    built,
    images,
    token_kinds,
)

READ_ONLY_THE_CLASS_TOKEN = {
    "class token", "registers", "layer scale", "qk norm", "norm over joined heads",
    "norms everywhere", "pre-norm", "no biases", "one channel", "no classifier", "post-norm",
    "gated", "gated, norm over joined heads", "gated linear MLP", "approximate GELU",
    "parallel scaling", "parallel scaling, one projection", "parallel things",
    "parallel things, norm over joined heads", "DeiT-3", "BEiT, shared bias",
    "EVA-02, norm over joined heads", "EVA-02, post-norm", "EVA-02, rotary attention",
    "relative positions, class token", "DINOv2 with registers", "DINOv2, SwiGLU", "rotary",
    "rotary, mixed", "grouped queries", "CaiT", "ConViT", "hybrid", "CLIP", "PiT"}

PLAIN = {name for name in VARIANTS if not name.startswith("parallel")} - {
    "post-norm", "gated", "gated, norm over joined heads"} | {
    "DeiT distilled", "DeiT-3", "DINOv2 with registers", "DINOv2, SwiGLU", "hybrid", "AIM", "CLIP",
    "SigLIP", "SigLIP, average", "NaFlex", "PiT", "PiT distilled"}


@pytest.mark.parametrize("key", SIZED)
def test_heads_are_counted_and_tokens_are_what_they_are(key: str) -> None:
    name, size = SIZED[key]
    model = built(name, size)
    anatomy = as_vit(model).anatomy
    modules = slow.places(model)
    assert anatomy.heads == tuple(sum(m.num_heads for m in layer) for layer in modules)
    assert [[a.module for a in layer.attentions] for layer in anatomy.layers] == modules
    for number, layer in enumerate(anatomy.layers):
        geometry, kinds = layer.geometry, token_kinds(name, number)
        assert geometry.class_token == (kinds(1)[0] == slow.CLASS)
        assert geometry.prefix == sum(kind != slow.PATCH for kind in kinds(1000))
        assert (geometry.windows is not None) == (
            KINDS[name].windowed and number not in KINDS[name].everywhere)
    assert (anatomy.image, anatomy.family) == (size, type(model).__name__)
    assert anatomy.plain == (name in PLAIN)
    assert anatomy.class_row == (
        type(model) is VisionTransformer and name in READ_ONLY_THE_CLASS_TOKEN & PLAIN)


@pytest.mark.parametrize("key", SIZED)
def test_attention_and_heads_are_as_large_as_the_geometry_says(key: str) -> None:
    """The watcher sees image, window, head, query and key; rows sum to 1."""
    model = built(*SIZED[key])
    anatomy, seen = as_vit(model).anatomy, {}
    clean = clean_pass(model, anatomy, images(model, 2), seen.__setitem__)
    for number, (layer, call) in enumerate(zip(anatomy.layers, clean.calls, strict=True)):
        windows, queries, keys = layer.geometry.attention_shape
        assert seen[number].shape == (2, windows, layer.heads, queries, keys)
        torch.testing.assert_close(seen[number].sum(-1), torch.ones(seen[number].shape[:-1]))
        width = sum(a.heads * a.width for a in layer.attentions)
        assert call.heads.shape == (2, windows * queries, width)
        tokens = 1 if layer.geometry.class_query else layer.geometry.tokens
        assert call.tokens.shape[:2] == (2, tokens)


@pytest.mark.parametrize("name", KINDS)
def test_who_reads_only_the_class_token_is_known(name: str) -> None:
    """By experiment: tokens other than the first, changed behind the last block, change nothing."""
    model = built(name)
    said = as_vit(model).anatomy.reads_class
    assert said == (name in READ_ONLY_THE_CLASS_TOKEN)
    if not said:
        return
    pixels = images(model, 2)

    def spoil(_module: nn.Module, _args: tuple, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :1], output[:, 1:] + 3], dim=1)

    before = slow.outcome(model, pixels)[0]
    block = as_vit(model).anatomy.layers[-1].block
    handle = block.register_forward_hook(spoil)
    after = slow.outcome(model, pixels)[0]
    handle.remove()
    assert torch.equal(before, after)


def _windowed(*layers: tuple[int, int, Windows]) -> list[Geometry]:
    return [Geometry(height, width, 0, False, windows) for height, width, windows in layers]


STAGED = {
    "Swin": _windowed((8, 16, Windows(4, 4)), (8, 16, Windows(4, 4, 2, 2)),
                      (4, 8, Windows(4, 4)), (4, 8, Windows(4, 4, 0, 2))),
    "Swin, padded": _windowed((10, 14, Windows(3, 3)), (10, 14, Windows(3, 3, 1, 1)),
                              (5, 7, Windows(3, 3)), (5, 7, Windows(3, 3, 1, 1))),
    "SAM": [Geometry(4, 7, 0, False, Windows(3, 3)), Geometry(4, 7, 0, False),
            Geometry(4, 7, 0, False, Windows(3, 3))],
    "PiT": [Geometry(7, 10, 1, True), Geometry(4, 5, 1, True), Geometry(4, 5, 1, True),
            Geometry(2, 3, 1, True)],
    "CaiT": [Geometry(4, 6, 0, False)] * 2 + [Geometry(4, 6, 1, True, class_query=True)] * 2,
    "ConViT": [Geometry(4, 4, 0, False)] * 2 + [Geometry(4, 4, 1, True)],
    "hybrid": [Geometry(2, 3, 1, True)] * 3,
    "DINOv2 with registers": [Geometry(3, 4, 5, True)] * 3,
    "rotary, registers": [Geometry(4, 6, 1, False)] * 3,
    "DeiT distilled": [Geometry(4, 6, 2, True)] * 3,
}
STAGED |= {"Swin-V2": STAGED["Swin"], "Swin-V2-CR": STAGED["Swin"],
           "Swin-V2, padded": STAGED["Swin, padded"],
           "PiT distilled": [Geometry(g.grid_h, g.grid_w, 2, True) for g in STAGED["PiT"]]}


@pytest.mark.parametrize("name", STAGED)
def test_grids_windows_and_class_tokens_differ_by_layer(name: str) -> None:
    model = built(name, KINDS[name].sizes[-1])
    assert [layer.geometry for layer in as_vit(model).anatomy.layers] == STAGED[name]


@pytest.mark.parametrize(("name", "own"), [
    ("CaiT", Geometry(4, 6, 1, True)), ("Swin", Geometry(8, 16, 0, False)),
    ("PiT", Geometry(7, 10, 1, True)), ("SAM", Geometry(4, 7, 0, False))])
def test_the_models_own_geometry_is_the_first_grid_and_the_last_prefix(
        name: str, own: Geometry) -> None:
    assert as_vit(built(name, KINDS[name].sizes[-1])).anatomy.geometry == own


REFUSED = {
    "xcit_nano_12_p16_224": "between channels", "edgenext_small": "between channels",
    "mixer_s32_224": "fixed weights and has no attention", "convmixer_768_32": "no attention",
    "resnet18": "no sequence of transformer blocks", "hiera_tiny_224": "pools queries",
    "mvitv2_tiny": "pools queries", "hieradet_small": "pools queries",
    "twins_svt_small": "reduced grid", "pvt_v2_b0": "reduced grid", "coat_tiny": "linear",
    "volo_d1_224": "outlook attention", "tnt_s_patch16_224": "two grids",
    "crossvit_tiny_240": "two branches", "levit_128": "never shows its attention",
    "tiny_vit_5m_224": "never shows its attention", "davit_tiny": "between channels",
    "gcvit_xxtiny": "whole image", "coatnet_0_224": "grids of far-apart patches",
    "nest_tiny": "nested grid", "visformer_tiny": "convolution",
    "efficientvit_m0": "one after the other", "efficientformer_l1": "without attention",
}


def _bare(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_analysed_is_refused_before_it_runs_and_told_why(name: str) -> None:
    model = _bare(name)
    with pytest.raises(ModelError, match=REFUSED[name]) as refusal:
        dissect(model, name, (3, 224, 224))
    assert f"model {name!r} ({type(model).__name__}) cannot be analysed: " in str(refusal.value)


def test_a_difference_of_softmaxes_is_refused() -> None:
    model = VisionTransformer(**TINY, block_fn=DiffParallelScalingBlock)
    with pytest.raises(ModelError, match="difference of two softmaxes"):
        dissect(model, "test", (3, 32, 32))
    model = VisionTransformer(**TINY, attn_layer="diff")
    with pytest.raises(ModelError, match="difference of two softmaxes"):
        dissect(model, "test", (3, 32, 32))


def test_the_longest_name_gives_the_reason() -> None:
    """EfficientVit is the start of EfficientVitMsra, and refused for something else."""
    nested = [(a, b) for a in REASONS for b in REASONS if a != b and b.startswith(a)]
    assert nested
    for short, long in nested:
        assert REASONS[short] != REASONS[long]
        with pytest.raises(ModelError) as refusal:
            dissect(type(long, (nn.Module,), {})(), "test", (3, 32, 32))
        assert str(refusal.value).endswith(REASONS[long])


def test_attention_that_is_no_attention_is_refused_by_its_block() -> None:
    class Odd(nn.Module):
        num_heads = 3

    model = VisionTransformer(**TINY)
    model.blocks[1].attn = Odd()
    with pytest.raises(ModelError, match="block 1 has no softmax self-attention.*without proj"):
        dissect(model, "test", (3, 32, 32))


def test_a_grid_too_large_for_the_machine_is_refused(monkeypatch) -> None:
    model = VisionTransformer(**{**TINY, "patch_size": 4})
    assert dissect(model, "test", (3, 32, 32)).geometry.patches == 64
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64}.get)
    with pytest.raises(ModelError, match="65 tokens.*choose a smaller --image-size"):
        dissect(model, "test", (3, 32, 32))
