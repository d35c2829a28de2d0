"""Bundled small ViTs for Fashion-MNIST, with 400 test images: something real to look at offline."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

__all__ = ["IMAGES", "LABELS", "card", "load", "names"]

_HERE = Path(__file__).resolve().parent
_WEIGHTS = _HERE / "weights"
IMAGES: Path = _HERE / "images"
LABELS: Path = _HERE / "labels.csv"


def names() -> list[str]:
    """The bundled models, sorted."""
    return sorted(path.stem for path in _WEIGHTS.glob("*.safetensors"))


def card(name: str) -> dict[str, Any]:
    """The machine-readable model card: architecture, normalisation, classes, accuracy, training.

    Raises ValueError, with the names there are, for any other name.
    """
    if name not in names():
        raise ValueError(f"no model {name!r} in the zoo; it has {', '.join(names())}")
    return json.loads((_WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))


def load(name: str, img_size: int | tuple[int, int] | None = None) -> VisionTransformer:
    """The model in float32 and evaluation mode, its positions resampled to `img_size` if given.

    `img_size` (side, or height and width in pixels) must be made of whole patches, else ValueError.
    """
    architecture = card(name)["architecture"]
    trained, patch = architecture["img_size"], architecture["patch_size"]
    size = _pair(trained if img_size is None else img_size)
    if any(side < patch or side % patch for side in size):
        raise ValueError(f"img_size {img_size!r} of {name}: not whole patches of {patch} pixels")
    model = VisionTransformer(**architecture | {"img_size": size})
    stored = load_file(_WEIGHTS / f"{name}.safetensors")
    state = {key: value.float() for key, value in stored.items()}
    state["pos_embed"] = resample_abs_pos_embed(
        state["pos_embed"],
        new_size=list(model.patch_embed.grid_size),
        old_size=[side // patch for side in _pair(trained)],
        num_prefix_tokens=model.num_prefix_tokens,
    )
    model.load_state_dict(state)
    return model.eval()


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
