"""The box of an image that a model saw is what timm's own transform leaves of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from dashapp.crop import Box, seen

CASES = [(mode, share, size) for mode in ("center", "squash", "border") for share in (1.0, 0.875)
         for size in ((224, 224), (96, 160))]


def edges(shades: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Where a crop begins and ends on a ramp from 0 to 1, by a line through what is no padding."""
    inner = np.flatnonzero(real > 0.99)[1:-1]
    slope, start = np.polyfit((inner + 0.5) / len(shades), shades[inner], 1)
    return start, start + slope


@pytest.mark.parametrize(("mode", "share", "size"), CASES)
@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 431), (224, 224), (90, 640)])
def test_the_box_is_what_the_transform_leaves(mode, share, size, width, height):
    config = {"input_size": (3, *size), "crop_pct": share, "crop_mode": mode,
              "interpolation": "bilinear", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    across, down = ((np.arange(n) + 0.5) / n for n in (width, height))
    pixels = np.stack(np.broadcast_arrays(across[None], down[:, None], 1.0), -1)
    image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    left = create_transform(**config, is_training=False)(image).numpy()
    box = seen(json.dumps(config), width, height)
    middle = left.shape[1] // 2, left.shape[2] // 2
    found = (*edges(left[0][middle[0]], left[2][middle[0]]),
             *edges(left[1][:, middle[1]], left[2][:, middle[1]]))
    sides = (box.right - box.left,) * 2 + (box.bottom - box.top,) * 2
    assert np.divide(found, sides) == pytest.approx(
        np.divide((box.left, box.right, box.top, box.bottom), sides), abs=0.02)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "nonsense", '{"input_size": [3]}'])
def test_without_known_preprocessing_the_whole_image_is_shown(text):
    assert seen(text, 500, 375) == Box(0, 0, 1, 1)


def test_a_whole_image_is_known_as_such():
    assert seen(json.dumps({"input_size": [3, 28, 28], "crop_pct": 1.0}), 40, 40).whole
    assert not seen(json.dumps({"input_size": [3, 28, 28], "crop_pct": 1.0}), 40, 60).whole
