"""The fast sweep against an independent hooked forward pass per head."""

from __future__ import annotations

import pytest
import timm
import torch

from precompute import models, zoo
from precompute.ablation import nothing, zero
from precompute.anatomy import dissect
from precompute.clean import clean_pass
from precompute.readout import embeddings
from precompute.sweep import ENGINES, choose_engine, embed, hooks_engine, tail_engine
from store.errors import ModelError
from tests.precompute.vits import FAMILIES, REFUSED, VARIANTS, randomise, reference, tiny


def _images(model, count: int = 3) -> torch.Tensor:
    shape = (model.patch_embed.proj.weight.shape[1], *model.patch_embed.img_size)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def _worst(model, images: torch.Tensor, expect: str | None = None) -> tuple[float, float]:
    """Largest relative difference from the reference, and the median effect of a head."""
    anatomy = dissect(model, "test", tuple(images.shape[1:]))
    clean = clean_pass(model, anatomy, images)
    name = choose_engine(model, anatomy, images, clean)
    assert expect is None or name == expect
    unpruned = embed(model, clean.features)
    worst, effects = 0.0, []
    for pruned in ENGINES[name](model, anatomy, images, clean, zero):
        found = embeddings(model, pruned.features)
        for head in range(anatomy.heads[pruned.layer]):
            wanted = reference(model, images, pruned.layer, head)
            off = (found[head] - wanted).norm(dim=-1) / wanted.norm(dim=-1)
            worst = max(worst, off.max().item())
            effects.append((wanted - unpruned).norm() / unpruned.norm())
    return worst, torch.stack(effects).median().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_head_of_every_variant_agrees_with_a_hooked_pass(variant: str) -> None:
    model = tiny(**VARIANTS[variant])
    worst, effect = _worst(model, _images(model))
    assert effect > 0.03, "the weights hide what heads do; the test would prove little"
    assert worst < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_of_other_families_agrees_with_a_hooked_pass(family: str) -> None:
    model = randomise(timm.create_model(family, pretrained=False, **FAMILIES[family]))
    worst, effect = _worst(model, _images(model, 2))
    assert effect > 0.01
    assert worst < 1e-4


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_agrees_with_a_hooked_pass(name: str) -> None:
    vit = models.load(f"zoo:{name}")
    images = _images(vit.model, 4)
    assert _worst(vit.model, images)[0] < 1e-4


@pytest.mark.real
def test_the_real_vit_agrees_with_a_hooked_pass(real) -> None:
    spec = f"vit_small_patch14_dinov2@{real / 'vits14_imgfocus.safetensors'}"
    vit = models.load(spec, (112, 112))
    assert _worst(vit.model, _images(vit.model, 2), "tail-class-row")[0] < 1e-4


@pytest.mark.parametrize(("options", "engine"), [
    ({}, "tail-class-row"), (dict(class_token=False, global_pool="avg"), "tail"),
    (dict(global_pool="avg"), "tail")])
def test_the_engine_is_the_fastest_that_is_right(options: dict, engine: str) -> None:
    model = tiny(**options)
    _worst(model, _images(model), engine)


def test_a_model_that_is_more_than_its_blocks_takes_the_hooks() -> None:
    class Odd(timm.models.vision_transformer.VisionTransformer):
        def forward_features(self, x):
            x = self.norm_pre(self._pos_embed(self.patch_embed(x)))
            for block in self.blocks:
                x = block(x) + 0.5 * x.mean(1, keepdim=True)
            return self.norm(x)

    torch.manual_seed(0)
    model = randomise(Odd(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3))
    assert _worst(model, _images(model), "hooks")[0] < 1e-4


@pytest.mark.parametrize("engine", [tail_engine, hooks_engine])
def test_doing_nothing_gives_the_clean_outcome(engine) -> None:
    model = tiny()
    images = _images(model)
    anatomy = dissect(model, "test", (3, 32, 32))
    clean = clean_pass(model, anatomy, images)
    for pruned in engine(model, anatomy, images, clean, nothing):
        found = embeddings(model, pruned.features)
        wanted = embed(model, clean.features).expand_as(found)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        block = clean.calls[pruned.layer].output.expand_as(pruned.block_output)
        torch.testing.assert_close(pruned.block_output, block, rtol=1e-4, atol=1e-5)


def test_patches_of_the_last_block_cannot_change_a_class_token_classifier() -> None:
    model = tiny()
    images = _images(model)
    anatomy = dissect(model, "test", (3, 32, 32))
    clean = clean_pass(model, anatomy, images)

    def patches_only(heads, count, chosen):
        changed = zero(heads, count, chosen)
        changed[:, :, 0] = heads[:, 0]
        return changed

    *_, last = tail_engine(model, anatomy, images, clean, patches_only)
    found = embeddings(model, last.features)
    torch.testing.assert_close(found, embed(model, clean.features).expand_as(found),
                               rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny()
    before = [block.attn.fused_attn for block in model.blocks]
    _worst(model, _images(model))
    assert [block.attn.fused_attn for block in model.blocks] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_analysed_is_refused_with_a_reason(name: str) -> None:
    model = timm.create_model(name, pretrained=False, **REFUSED[name]).eval()
    images = torch.randn(1, 3, 224, 224)
    with pytest.raises(ModelError, match="support|cannot|no softmax|not once|no grid"):
        clean_pass(model, dissect(model, name, (3, 224, 224)), images)


def test_attention_that_is_no_softmax_is_refused() -> None:
    model = tiny()
    for block in model.blocks:
        block.attn.attn_drop = torch.nn.Sequential(torch.nn.Identity())
    model.blocks[1].attn.attn_drop.register_forward_pre_hook(lambda _m, args: (args[0] * 2,))
    with pytest.raises(ModelError, match="sum to 1"):
        clean_pass(model, dissect(model, "test", (3, 32, 32)), _images(model))
