"""Class patterns are called what one sees in them."""

from __future__ import annotations

import numpy as np
import pytest

from precompute.class_names import class_names
from precompute.names import MIXED
from store.canon import CLASS


def pattern(image: np.ndarray, patches: float = 0.9, itself: float = 0.08) -> np.ndarray:
    """shares[1, size] of a class token that looks at an image like this."""
    return np.concatenate([(image / image.sum()).ravel(),
                           [patches, itself, 1 - patches - itself]])[None].astype(np.float32)


def place(rows: slice, columns: slice) -> np.ndarray:
    image = np.full((CLASS.side, CLASS.side), 0.2)
    image[rows, columns] = 1
    return image


FLAT = np.ones((CLASS.side, CLASS.side))
RIM = 1.2 - place(slice(2, 12), slice(2, 12))
CHESS = 0.2 + np.indices((CLASS.side, CLASS.side)).sum(0) % 2


@pytest.mark.parametrize(("shares", "name"), [
    (pattern(FLAT), "whole image"),
    (pattern(FLAT + np.random.default_rng(0).uniform(-0.3, 0.3, FLAT.shape)), "whole image"),
    (pattern(FLAT, 0.2, 0.7), "itself"),
    (pattern(FLAT, 0.2, 0.1), "registers"),
    (pattern(place(slice(3, 11), slice(3, 11))), "middle"),
    (pattern(RIM), "rim"),
    (pattern(place(slice(0, 7), slice(None))), "one side"),
    (pattern(place(slice(None), slice(9, 14))), "one side"),
    (pattern(CHESS), MIXED),
])
def test_a_place_has_its_name(shares: np.ndarray, name: str) -> None:
    assert class_names(shares) == [name]


def test_every_head_has_its_own() -> None:
    both = np.concatenate([pattern(FLAT), pattern(RIM)])
    assert class_names(both) == ["whole image", "rim"]
