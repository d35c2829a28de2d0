"""SPEC → a loaded ViT with all that the pipeline asks of it."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import safetensors
import timm
import torch
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from timm.models import load_state_dict

from precompute import hub, zoo
from precompute.anatomy import Anatomy, Model
from precompute.families import dissect
from precompute.specs import Spec, parse_spec
from store.errors import ModelError

Size = tuple[int, int]


@dataclass(frozen=True)
class Vit:
    """A model ready to be analysed, and what is known about it.

    `transform` turns a PIL image of `mode` into a float tensor (channels, height, width).
    `class_names[i]` are the names a label may go by; None without a classifier.
    """

    spec: Spec
    model: Model
    anatomy: Anatomy
    transform: Callable[[Any], torch.Tensor]
    mode: str
    preprocessing: dict[str, Any]
    class_names: list[tuple[str, ...]] | None
    device: torch.device

    @property
    def shown(self) -> str:
        return self.spec.shown(*self.anatomy.image)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of every parameter's and buffer's name, type, shape and bytes, in order."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def load(text: str, size: Size | None = None, device: str = "cpu") -> Vit:
    """Load the model that a SPEC names, at the given input size (height, width) if there is one.

    Raises ModelError, in one line, for a model that cannot be had, does not fit its checkpoint,
    or has no attention heads that can be ablated.
    """
    spec = parse_spec(text)
    logging.getLogger("timm").setLevel(logging.ERROR)
    build = {"zoo": _from_zoo, "checkpoint": _from_checkpoint}.get(spec.kind, _from_timm)
    try:
        model, config, names = build(spec, size)
    except ModelError:
        raise
    except Exception as error:  # timm, torch and the hub raise whatever they like
        at = f" at {size[0]}x{size[1]} pixels" if size else ""
        at += f" (is {spec.path} a checkpoint of {spec.name}?)" if spec.path else ""
        raise ModelError(f"model {spec.text!r} cannot be loaded{at}: {_one_line(error)}") from error
    model = model.to(device).float().eval().requires_grad_(False)
    channels = int(config["input_size"][0])
    if channels not in (1, 3):
        raise ModelError(f"model {spec.text!r} wants {channels} channels; images have 1 or 3")
    anatomy = dissect(model, spec.text, tuple(config["input_size"]))
    return Vit(spec, model, anatomy, create_transform(**config, is_training=False),
               "L" if channels == 1 else "RGB", _described(config), names, torch.device(device))


def _from_zoo(spec: Spec, size: Size | None):
    try:
        card = zoo.card(spec.name)
    except ValueError as error:
        raise ModelError(f"model {spec.text!r}: {error}") from error
    model = zoo.load(spec.name, img_size=size)
    height, width = size or model.patch_embed.img_size
    config = {"input_size": (card["architecture"].get("in_chans", 3), height, width),
              "mean": tuple(card["mean"]), "std": tuple(card["std"]),
              "interpolation": "bilinear", "crop_pct": 1.0}
    return model, config, [(name,) for name in card["classes"]]


def _from_timm(spec: Spec, size: Size | None):
    hub.settle()
    name = f"hf-hub:{spec.name}" if spec.kind == "hub" else spec.name
    if spec.kind == "timm" and not timm.is_model(name):
        raise ModelError(f"no timm model is called {name!r}{_did_you_mean(name)}")
    if spec.kind == "timm":
        _refuse_early(spec, name)
    model = _create(spec, name, size, pretrained=True)
    return model, _config(model, size), _class_names(model)


def _refuse_early(spec: Spec, name: str) -> None:
    """Refuse what has no heads to ablate before its weights are fetched."""
    try:
        with torch.device("meta"):
            bare = timm.create_model(name)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return  # it cannot be built without memory; it is looked at once it is loaded
    dissect(bare, spec.text, resolve_data_config(pretrained_cfg=bare.pretrained_cfg)["input_size"])


def _from_checkpoint(spec: Spec, size: Size | None):
    if not timm.is_model(spec.name):
        raise ModelError(f"no timm model is called {spec.name!r}{_did_you_mean(spec.name)}")
    weights = _read_weights(spec)
    config = timm.models.get_pretrained_cfg(spec.name)
    classifier = config.classifier if config else "head"
    heads = [classifier] if isinstance(classifier, str) else list(classifier or ())
    found = [weights[f"{h}.weight"] for h in heads if f"{h}.weight" in weights]
    classes = int(found[0].shape[0]) if found and found[0].ndim == 2 else 0
    channels = _channels(weights)
    height, width = size or (config.input_size[1:] if config else (224, 224))
    overlay = {"file": str(spec.path), "num_classes": classes,
               "input_size": (channels, height, width)}
    model = _create(spec, spec.name, size, pretrained=True, num_classes=classes,
                    in_chans=channels, pretrained_cfg_overlay=overlay)
    return model, _config(model, size), _class_names(model) if classes else None


def _channels(weights: dict[str, torch.Tensor]) -> int:
    """Colour channels of a checkpoint's images; behind a convolutional stem they do not show."""
    patches = weights.get("patch_embed.proj.weight")
    hybrid = any(name.startswith("patch_embed.backbone") for name in weights)
    return 3 if patches is None or patches.ndim != 4 or hybrid else int(patches.shape[1])


def _read_weights(spec: Spec) -> dict[str, torch.Tensor]:
    assert spec.path is not None
    try:
        return load_state_dict(str(spec.path), device="cpu")
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError,
            safetensors.SafetensorError) as error:
        raise ModelError(f"model {spec.text!r}: {spec.path} is no readable checkpoint "
                         f"({_one_line(error)})") from error


def _create(spec: Spec, name: str, size: Size | None, **options: Any) -> Model:
    """timm's model; `img_size` only where asked for, since not every family takes it."""
    if size:
        options["img_size"] = size
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        if size and "img_size" in str(error):
            raise ModelError(f"model {spec.text!r} does not let its input size be chosen: leave "
                             "--image-size away") from error
        raise


def _config(model: Model, size: Size | None) -> dict[str, Any]:
    """timm's eval preprocessing, at the real input size (timm reports the pretrained one)."""
    config = resolve_data_config(pretrained_cfg=model.pretrained_cfg, model=model)
    channels = config["input_size"][0]
    real = size or getattr(getattr(model, "patch_embed", None), "img_size", None)
    if real:
        config["input_size"] = (channels, *real)
    return config


def _class_names(model: Model) -> list[tuple[str, ...]] | None:
    """The names of a classifier's classes: its own, ImageNet-1k's, or none known."""
    classes = int(getattr(model, "num_classes", 0) or 0)
    if not classes:
        return None
    own = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if own and len(own) == classes:
        return [(str(name),) for name in own]
    if classes == 1000:
        info = ImageNetInfo("imagenet-1k")
        return [_imagenet_names(info, i) for i in range(classes)]
    return [(str(i),) for i in range(classes)]


def _imagenet_names(info: ImageNetInfo, index: int) -> tuple[str, ...]:
    """Description first ("tench, Tinca tinca"), then every name it is also known by."""
    description = info.index_to_description(index)
    return (description, info.index_to_label_name(index), str(index),
            *(part.strip() for part in description.split(",")))


def _described(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config, default=list))


def _did_you_mean(name: str) -> str:
    close = timm.list_models(f"*{name}*")[:3]
    return f"; did you mean {', '.join(close)}?" if close else ""


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."


