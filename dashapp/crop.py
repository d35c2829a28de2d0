"""What of an image a model saw: timm's evaluation transform (resize, centre crop), as a box."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """The part of an image that became the model's input, in shares of the image's width and
    height; beyond 0..1 is padding."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def whole(self) -> bool:
        return max(abs(self.left), abs(self.top), abs(1 - self.right), abs(1 - self.bottom)) < 0.005


def seen(preprocessing: str | None, width: int, height: int) -> Box:
    """The box of an image of `width` x `height` pixels; all of it where the preprocessing is not
    known."""
    try:
        config = json.loads(preprocessing or "{}")
        _, down, across = config["input_size"]
        mode, share = config.get("crop_mode") or "center", config.get("crop_pct") or 0.875
    except (ValueError, KeyError, TypeError, AttributeError):
        return Box(0, 0, 1, 1)
    scale = math.floor(down / share), math.floor(across / share)
    resized_h, resized_w = _RESIZE.get(mode, _shortest)(height, width, *scale)
    top, left = round((resized_h - down) / 2), round((resized_w - across) / 2)
    return Box(left / resized_w, top / resized_h, (left + across) / resized_w,
               (top + down) / resized_h)


def _squash(height: int, width: int, down: int, across: int) -> tuple[int, int]:
    return down, across


def _longest(height: int, width: int, down: int, across: int) -> tuple[int, int]:
    ratio = max(height / down, width / across)
    return round(height / ratio), round(width / ratio)


def _shortest(height: int, width: int, down: int, across: int) -> tuple[int, int]:
    if down == across:  # torchvision's resize cuts off where timm's own rounds
        short = min(height, width)
        return (int(down * height / short), int(down * width / short))
    ratio = min(height / down, width / across)
    return round(height / ratio), round(width / ratio)


_RESIZE = {"squash": _squash, "border": _longest, "center": _shortest}
