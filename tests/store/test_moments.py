"""What is added up of the images that pass is what the rows say, whatever is in them."""

from __future__ import annotations

import numpy as np
import pytest

from store.moments import BLOCK, Dense, Moments

IMAGES = 2 * BLOCK + 300
RNG = np.random.default_rng(0)
UNUSUAL = RNG.random(IMAGES) < 0.01


def values() -> np.ndarray:
    """float32[row, image]: rows of which one or the other way to add them up goes wrong."""
    found = RNG.normal(3, 0.01, (9, IMAGES))
    found[1] = 0.3
    found[2] = np.where(UNUSUAL, 1e4, found[2])  # outliers, without which there is little left
    found[3] = UNUSUAL
    found[4] = np.where(UNUSUAL, 0.7, 0.1)
    found[5, RNG.random(IMAGES) < 0.4] = np.nan
    found[6] = np.nan
    found[7] = np.where(UNUSUAL, 0.5, np.nan)
    found[8] = 1e6 + RNG.random(IMAGES)
    return found.astype(np.float32)


VALUES = values()
WHOLE = VALUES[[0, 1, 2, 3, 4, 8]]
FILTERS = {
    "all": np.ones(IMAGES, bool), "none": np.zeros(IMAGES, bool),
    "half": RNG.random(IMAGES) < 0.5, "few": RNG.random(IMAGES) < 0.01,
    "nearly all": RNG.random(IMAGES) < 0.97, "one": np.arange(IMAGES) == BLOCK,
    "unusual": UNUSUAL, "not unusual": ~UNUSUAL,
    "not unusual, few": ~UNUSUAL & (RNG.random(IMAGES) < 0.2),
    "one, then many": (np.arange(IMAGES) == np.flatnonzero(UNUSUAL)[0])
    | (np.arange(IMAGES) > IMAGES - 400)}


def dense(rows: np.ndarray) -> Dense:
    """Of float32[row, image]."""
    row = np.arange(len(rows))
    return Dense(row, row, rows.T.copy(), Moments(*np.array([one(own) for own in rows]).T))


def one(own: np.ndarray) -> tuple[float, ...]:
    """Count, mean and squares about it, of what is defined."""
    own = own[np.isfinite(own)].astype(float)
    return (len(own), own.mean(), np.square(own - own.mean()).sum()) if len(own) else (0, 0, 0)


@pytest.mark.parametrize("rows", [VALUES, WHOLE], ids=["holes", "whole"])
@pytest.mark.parametrize("passing", FILTERS.values(), ids=FILTERS)
def test_moments_are_those_of_the_rows(rows, passing):
    found = dense(rows).moments(passing)
    for row, count, mean, squares in zip(rows, found.counts, found.means, found.squares,
                                         strict=True):
        expected = one(row[passing])
        assert count == expected[0]
        np.testing.assert_allclose(mean, expected[1], rtol=5e-6)
        np.testing.assert_allclose(squares, expected[2], rtol=3e-5,
                                   atol=1e-11 * count * expected[1] ** 2)
