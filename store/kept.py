"""Attention matrices as the store keeps them, back as numbers.

A row of the table `attention` holds one head's matrices on one image, window by window; with its
row of `layers` they become one matrix of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

STEPS = 255


def decode(row: Mapping[str, Any]) -> np.ndarray:
    """float32[window, query, key]: weight = top (c / 255)^2, `top` the row's largest weight."""
    shape = row["windows"], row["queries"], row["keys"]
    codes = np.frombuffer(row["weights"], np.uint8).reshape(shape).astype(np.float32)
    tops = np.asarray(row["tops"], np.float32).reshape(*shape[:2], 1)
    return tops * np.square(codes / STEPS)


def whole(weights: np.ndarray, layer: Mapping[str, Any]) -> np.ndarray:
    """float32[query, key] over the layer's tokens; NaN where two of them do not see each other.

    A layer whose class token alone asks has one row.
    """
    if layer["places"] is None:
        return weights[0]
    places = np.asarray(layer["places"]).reshape(weights.shape[:2])
    patches = layer["grid_h"] * layer["grid_w"]
    out = np.full((patches, patches), np.nan, np.float32)
    for window, place in zip(weights, places, strict=True):
        real = place >= 0
        out[np.ix_(place[real], place[real])] = window[np.ix_(real, real)]
    return out
