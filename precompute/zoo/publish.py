"""From a trained model to its two bundled files: fp16 weights, and a card measured on them."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from precompute.zoo import fashion, heads, start
from precompute.zoo.recipes import Recipe

HEAD_IMAGES = 200  # first of the held-out part


@torch.inference_mode()
def accuracy(model: nn.Module, pixels: fashion.Pixels, labels: fashion.Labels) -> float:
    """Share of right answers, in float32 and evaluation mode."""
    training = model.training
    model.eval()
    right = sum(
        (model(fashion.normalise(part)).argmax(1) == truth).sum().item()
        for part, truth in zip(pixels.split(500), labels.split(500), strict=True)
    )
    model.train(training)
    return right / len(labels)


def publish(
    recipe: Recipe, trained: VisionTransformer, run: dict[str, Any], data: Path, out: Path
) -> None:
    """Write NAME.safetensors, read it back, measure it, and write NAME.json."""
    weights = out / f"{recipe.name}.safetensors"
    save_file({key: value.half() for key, value in trained.state_dict().items()}, weights)
    weights.chmod(0o644)  # safetensors writes for the owner only
    model = VisionTransformer(**recipe.architecture).eval()
    model.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    _, (held_pixels, held_labels) = fashion.read_training(data)
    check = heads.check_heads(model, fashion.normalise(held_pixels[:HEAD_IMAGES]))
    card = {
        "name": recipe.name,
        "title": recipe.title,
        "architecture": recipe.architecture,
        "mean": [fashion.MEAN],
        "std": [fashion.STD],
        "classes": list(fashion.CLASSES),
        "accuracy_test": accuracy(model, *fashion.read_split(data, "t10k")),
        "accuracy_held_out": accuracy(model, held_pixels, held_labels),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "training": describe(recipe) | run,
        "heads": check,
    }
    weights.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{recipe.name}: test accuracy {card['accuracy_test']:.4f}")
    print(heads.head_table(check))


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, with what it was run on."""
    elsewhere = ("name", "title", "architecture", "bundled")
    settings = {key: value for key, value in asdict(recipe).items() if key not in elsewhere}
    return {
        "data": "Fashion-MNIST, training set without its last 5,000 images (held out)",
        **settings,
        "init": {
            "positions": f"sin-cos, temperature {start.TEMPERATURE:g}",
            "query_key": f"mimetic, diagonal {start.DIAGONAL}, noise {start.NOISE}",
            "query_gains": f"{start.GAINS[0]} (head 0) to {start.GAINS[1]} (last head)",
        },
        "versions": {
            "torch": torch.__version__.split("+")[0],
            "timm": timm.__version__,
            "safetensors": safetensors.__version__,
        },
    }
