"""From a SPEC to a model: names, checkpoints of many kinds, classes and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from precompute import models
from precompute.classes import class_of_labels
from precompute.specs import parse_spec
from store.errors import ModelError
from tests.precompute.vits import randomise
from tests.precompute.world import make_pictures, run


def _state(name: str = "vit_tiny_patch16_224", **options: object) -> dict[str, torch.Tensor]:
    return randomise(timm.create_model(name, **options)).state_dict()


@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s},
    lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}], ids=range(4))
def test_checkpoints_of_every_wrapping_load_with_their_own_classes(wrap, tmp_path: Path) -> None:
    state = _state(num_classes=7)
    torch.save(wrap(state), tmp_path / "x.pth")
    vit = models.load(f"vit_tiny_patch16_224@{tmp_path / 'x.pth'}", (64, 32))
    assert vit.model.num_classes == 7 and vit.class_names == [(str(i),) for i in range(7)]
    torch.testing.assert_close(vit.model.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])
    geometry = vit.anatomy.geometry
    assert (geometry.grid_h, geometry.grid_w, vit.shown) == (4, 2, "x-64x32px")
    assert vit.preprocessing["input_size"] == [3, 64, 32]


@pytest.mark.parametrize(("name", "options", "mode"), [
    ("vit_tiny_patch16_224", dict(num_classes=0), "RGB"),
    ("vit_tiny_patch16_224", dict(num_classes=0, in_chans=1), "L"),
    ("vit_tiny_r_s16_p8_224", dict(num_classes=3), "RGB")])
def test_channels_and_missing_classifiers_are_seen_in_the_checkpoint(
        name: str, options: dict, mode: str, tmp_path: Path) -> None:
    save_file(_state(name, **options), tmp_path / "x.safetensors")
    vit = models.load(f"{name}@{tmp_path / 'x.safetensors'}", (64, 64))
    assert vit.mode == mode
    assert (vit.class_names is None) == (options["num_classes"] == 0)


def test_a_model_that_cannot_be_analysed_is_not_put_on_the_books(tmp_path: Path) -> None:
    save_file(_state("cait_xxs24_224", depth=1), tmp_path / "x.safetensors")
    images = make_pictures(tmp_path / "images", 2)
    good = tmp_path / "good.safetensors"
    save_file(_state(), good)
    with pytest.raises(ModelError, match="Cait"):
        run(tmp_path / "store", images, f"cait_xxs24_224@{tmp_path / 'x.safetensors'}", sizes=[])
    store = run(tmp_path / "store", images, f"vit_tiny_patch16_224@{good}")
    assert store.query("SELECT model FROM models")["model"].to_pylist() == ["good-32px"]


def test_more_tokens_than_the_machine_can_hold_are_refused() -> None:
    with pytest.raises(ModelError, match="choose a smaller --image-size"):
        models.load("zoo:fashion_cls7", (8000, 8000))


@pytest.mark.parametrize(("text", "kind", "name", "shown"), [
    ("zoo:a", "zoo", "a", "a"), ("vit_x", "timm", "vit_x", "vit_x-28px"),
    ("hf-hub:org/name", "hub", "org/name", "org/name-28px")])
def test_specs_and_their_default_names(text: str, kind: str, name: str, shown: str) -> None:
    spec = parse_spec(text)
    assert (spec.kind, spec.name, spec.shown(28, 28)) == (kind, name, shown)


@pytest.mark.parametrize(("label", "found"), [
    ("Cat", 0), ("cat", 0), ("felis", 0), ("1", 1), ("2", 2), ("3", None), ("crane", None),
    ("cow", None), ("-1", None), ("²", None)])
def test_labels_find_their_class_by_any_name_or_by_number(label: str, found: int | None) -> None:
    names = [("cat", "felis"), ("bird", "crane"), ("machine", "crane")]
    assert class_of_labels([label, None], names).get(label) == found
    assert class_of_labels([label], None) == {}
