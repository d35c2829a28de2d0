"""The self-test passes what is right and stops what is not, each sabotage at its own check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)
from torch import Tensor, nn

import headatlas
from precompute import contest, hooked, models, selftest
from precompute.families import dissect
from precompute.models import Vit
from precompute.selftest import check, choose_engine, examine, failures, require, rounding_error
from precompute.selftest_cli import noise
from precompute.specs import Spec
from precompute.sweep import Hooks, Tail
from store.errors import ModelError
from tests.precompute.vits import TINY, randomise, tiny
from tests.precompute.world import make_pictures

Size = tuple[int, int]

FAMILIES: dict[str, tuple[dict, Size, str]] = {
    "deit_tiny_distilled_patch16_224": (dict(img_size=64, depth=2), (64, 64), "fast"),
    "swin_tiny_patch4_window7_224": (dict(img_size=112, embed_dim=24, depths=(2, 2),
                                          num_heads=(2, 3), window_size=7), (112, 112), "tail"),
    "swinv2_cr_tiny_224": (dict(img_size=112, embed_dim=24, depths=(2, 2), num_heads=(2, 3),
                                window_size=7), (112, 112), "tail"),
    "pit_ti_224": (dict(depth=[1, 2, 1]), (224, 224), "fast"),
    "cait_xxs24_224": (dict(img_size=64, depth=2), (64, 64), "tail"),
    "eva02_tiny_patch14_224": (dict(img_size=56, depth=2), (56, 56), "tail"),
    "convit_tiny": (dict(depth=4, local_up_to_layer=2, img_size=64), (64, 64), "tail"),
    "naflexvit_base_patch16_gap": (dict(embed_dim=48, num_heads=3, depth=2), (384, 384), "fast"),
}
PLAIN: dict[str, tuple[dict, str]] = {
    "class token": ({}, "fast"),
    "average pooling": (dict(class_token=False, global_pool="avg"), "fast"),
    "registers": (dict(reg_tokens=4), "fast"),
    "norm over joined heads": (dict(scale_attn_norm=True), "fast"),
    "one layer": (dict(depth=1), "fast"),
    "no classifier": (dict(num_classes=0), "fast"),
    "attention and MLP in one projection": (dict(block_fn=ParallelScalingBlock), "tail"),
    "parallel attentions": (dict(block_fn=ParallelThingsBlock), "tail"),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are ten times slower on threads that wait for a busy machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def as_vit(model: nn.Module, size: Size = (32, 32)) -> Vit:
    """A model in hand, as if it had been loaded."""
    model = model.requires_grad_(False)
    names = [(str(i),) for i in range(model.num_classes)]
    about = {"input_size": (3, *size), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return Vit(Spec("test", "timm", "test"), model, dissect(model, "test", (3, *size)),
               lambda image: image, "RGB", about, names or None, torch.device("cpu"))


def failed(vit: Vit, engine: str = "tail") -> set[str]:
    return {c.name for c in check(vit, engine, noise(vit)) if not c.passed}


@pytest.mark.parametrize("variant", PLAIN)
def test_right_models_pass(variant: str) -> None:
    options, engine = PLAIN[variant]
    vit = as_vit(tiny(**options))
    verdict = examine(vit, noise(vit))
    assert failures(verdict.checks) == ""
    require(verdict.checks)
    assert verdict.engine == engine == choose_engine(vit, noise(vit))
    assert sum(c.state == "ok" for c in verdict.checks) >= 7
    assert json.loads(json.dumps([asdict(c) for c in verdict.checks]))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_pass(family: str) -> None:
    options, size, engine = FAMILIES[family]
    vit = as_vit(randomise(timm.create_model(family, num_classes=5, **options)), size)
    verdict = examine(vit, noise(vit))
    assert failures(verdict.checks) == ""
    assert verdict.engine == engine, verdict.passed_over
    assert bool(verdict.passed_over) == (engine != "fast")


def test_every_kind_of_layer_is_looked_at() -> None:
    options, size, _ = FAMILIES["swin_tiny_patch4_window7_224"]
    anatomy = as_vit(timm.create_model("swin_tiny_patch4_window7_224", **options), size).anatomy
    assert hooked.layers_to_look_at(anatomy) == [0, 1, 2, 3]
    assert {anatomy.layers[i].geometry for i in hooked.layers_to_look_at(anatomy)} \
        == {layer.geometry for layer in anatomy.layers}


def test_a_check_that_says_nothing_tells_why() -> None:
    vit = as_vit(tiny(depth=1, num_classes=0, global_pool="avg"))
    found = {c.name: c for c in check(vit, "fast", noise(vit))}
    for name, why in {"pruned logits": "no classifier", "two heads": "one layer",
                      "last layer": "more than the class token"}.items():
        assert found[name].state == "n.a." and found[name].passed and why in found[name].note


def test_a_gate_behind_the_heads_is_said_to_be_one() -> None:
    model = tiny()
    for block in model.blocks:
        block.attn.gate = nn.Linear(24, 24)
    vit = as_vit(model)
    found = {c.name: c for c in check(vit, "tail", noise(vit))}
    assert failures(found.values()) == ""
    assert "gate" in found["contributions"].note


class Leaks(VisionTransformer):
    """Adds an earlier block's output at the end, past all others, from where no engine that
    answers blocks from the clean pass can see it."""

    def forward_features(self, x: Tensor) -> Tensor:
        x = self._pos_embed(self.patch_embed(x))
        kept: list[Tensor] = []
        handle = self.blocks[0].attn.register_forward_hook(lambda _m, _a, out: kept.append(out))
        for block in self.blocks:
            x = block(x)
        handle.remove()
        return self.norm(x + 3 * kept[0] if kept else x)


def test_a_model_that_is_more_than_its_blocks_takes_the_hooks() -> None:
    torch.manual_seed(0)
    vit = as_vit(randomise(Leaks(**TINY)))
    verdict = examine(vit, noise(vit))
    assert verdict.engine == "hooks" and failures(verdict.checks) == ""
    assert [why.split(":")[0] for why in verdict.passed_over] == ["fast", "tail"]
    assert failed(vit, "tail") >= {"no-op", "pruned heads"}
    with pytest.raises(ModelError, match=r"self-test failed: no-op \(off by .*--despite-selftest"):
        require(check(vit, "fast", noise(vit)))


def test_an_engine_that_does_not_run_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("these blocks cannot be run\napart")

    monkeypatch.setattr(Tail, "carry", broken)
    vit = as_vit(tiny())
    verdict = examine(vit, noise(vit))
    assert verdict.engine == "hooks"
    assert "cannot be run apart" in verdict.passed_over[0]
    assert {c.name for c in check(vit, "tail", noise(vit)) if c.state == "FAILED"} \
        >= {"no-op", "pruned heads"}


@contextmanager
def as_if(module: nn.Module, change) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def test_attention_whose_rows_do_not_sum_to_1_fails() -> None:
    vit = as_vit(tiny())
    with as_if(vit.model.blocks[1].attn.attn_drop, lambda a: a * 1.0005):
        assert failed(vit, "hooks") >= {"attention rows", "hop masses"}
    with as_if(vit.model.blocks[1].attn.attn_drop, lambda a: a * 2), \
            pytest.raises(ModelError, match="rows sum to 1"):
        check(vit, "hooks", noise(vit))


def test_heads_that_are_changed_behind_the_site_fail() -> None:
    """The projection's input is not what was seen at the site."""
    vit = as_vit(tiny())
    module = vit.model.blocks[1].attn
    handle = module.register_forward_hook(lambda _m, _a, out: 2 * out)
    assert "contributions" in failed(vit, "hooks")
    handle.remove()
    assert not failed(vit, "hooks")


def test_a_class_row_that_is_not_all_that_is_read_fails() -> None:
    vit = as_vit(tiny(class_token=True, global_pool="avg"))
    wrong = replace(vit, anatomy=replace(vit.anatomy, class_row=True, reads_class=True))
    assert failed(wrong, "fast") >= {"no-op", "pruned heads", "last layer"}
    assert choose_engine(wrong, noise(vit)) == "tail"
    assert failed(wrong, "tail") == {"last layer"}


class OffByOne(Hooks):
    """Prunes well, but takes the gates of the neighbouring head."""

    def carry(self, clean, layer, heads, gates=None):
        rolled = None if gates is None else {k: g.roll(1, -1) for k, g in gates.items()}
        return super().carry(clean, layer, heads, rolled)


def test_wrong_gates_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "make_engine",
                        lambda name, model, anatomy: OffByOne(model, anatomy))
    assert failed(as_vit(tiny())) == {"two heads"}


def test_an_engine_that_is_not_a_number_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(Hooks):
        def carry(self, clean, layer, heads, gates=None):
            found = super().carry(clean, layer, heads, gates)
            return replace(found, features=found.features * torch.nan)

    monkeypatch.setattr(contest, "make_engine",
                        lambda name, model, anatomy: Nowhere(model, anatomy))
    vit = as_vit(tiny())
    found = {c.name: c for c in check(vit, "tail", noise(vit))}
    assert not found["pruned heads"].passed and found["pruned heads"].worst is None
    assert choose_engine(vit, noise(vit)) == "hooks"


def test_heads_that_do_not_repeat_fail_partial_pruning() -> None:
    vit = as_vit(tiny())
    drops = vit.model.blocks[0].attn.attn_drop
    drops.p = 0.5
    drops.training = True
    assert failed(vit, "hooks") >= {"mode none"}


def test_the_model_is_left_as_it_was() -> None:
    vit = as_vit(tiny())
    before = [block.attn.fused_attn for block in vit.model.blocks]
    examine(vit, noise(vit))
    assert [block.attn.fused_attn for block in vit.model.blocks] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)
                   for m in vit.model.modules())


def test_a_slow_model_is_tried_on_less(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = as_vit(tiny())
    assert len(hooked.gather(vit, noise(vit)).pruned) == 6
    monkeypatch.setattr(hooked, "SLOW_PASS", 0.0)
    monkeypatch.setattr(hooked, "SECONDS", 0.0)
    found = hooked.gather(vit, noise(vit))
    assert len(found.pixels) == 1 and list(found.pruned) == [(0, 0), (1, 0), (2, 0)]


def test_rounding_is_measured() -> None:
    vit = as_vit(tiny())
    assert 1e-4 < rounding_error(vit, "fast", noise(vit)) < 0.3


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture) -> None:
    assert headatlas.main(["selftest", "--model", "zoo:fashion_cls7"]) == 0
    said = capsys.readouterr().out
    assert "engine: fast" in said
    rows = said[said.index("result"):].splitlines()[1:]
    assert len(rows) == len(selftest.CHECKS)
    assert all(row.startswith("ok") for row in rows)


def test_the_command_tries_images_at_a_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_pictures(tmp_path, 3)
    assert headatlas.main(["selftest", "--model", "zoo:fashion_avg7", "--images", str(tmp_path),
                           "--image-size", "56", "--device", "cpu"]) == 0
    assert "56px" in capsys.readouterr().out


def test_the_command_refuses_a_model_that_fails(monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture) -> None:
    loaded = as_vit(tiny())
    loaded.model.blocks[1].attn.register_forward_hook(lambda _m, _a, out: 2 * out)
    monkeypatch.setattr(models, "load", lambda *_: loaded)
    assert headatlas.main(["selftest", "--model", "mine"]) == 2
    said = capsys.readouterr()
    assert "FAILED  contributions" in said.out
    assert len(said.err.splitlines()) == 1
    assert "'mine' failed the self-test: contributions (off by" in said.err
