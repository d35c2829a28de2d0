"""Heads of known patterns land by pattern and not by grid, in a space that has seen other ones."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, pairwise_distances

from precompute.space.clusters import fit_clusters
from precompute.space.fitting import fit
from precompute.space.inputs import Means, Single
from precompute.space.space import Space
from store.canon import PATCH
from tests.precompute.patterns_world import GRIDS, OBLONG, every, patterns_of

IMAGES = 6
LATENT = 8
ALIKE = {"sink", "random", "uniform"}


def heads_of(prefix: int, strength: float, seed: int, grids: tuple = GRIDS,
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns (head x image x share) of every kind of head on these grids, and which is which."""
    cases = every(*grids)
    looks = [patterns_of(pattern, grid, prefix=prefix, images=IMAGES, strength=strength, seed=seed)
             for pattern, grid in cases]
    shares = np.stack([np.asarray(look["patch"], np.float32) for look in looks])
    return shares, np.array([p for p, _ in cases]), np.array([f"{g}" for _, g in cases])


@pytest.fixture(scope="module")
def space() -> Space:
    """Fitted on heads with and without a class token, sharp and soft, on square grids."""
    shares = np.concatenate([heads_of(prefix, strength, 0)[0]
                             for prefix in (0, 1) for strength in (0.5, 0.7, 0.9)])
    heads = np.arange(len(shares))
    model = np.full(len(heads), "m", object)
    single = Single(PATCH, np.repeat(model, IMAGES), np.repeat(heads * 0, IMAGES),
                    np.repeat(heads, IMAGES), shares.reshape(-1, PATCH.size),
                    np.tile(np.arange(IMAGES), len(heads)))
    return fit(single, Means(PATCH, model, heads * 0, heads, shares.mean(1), model,
                             np.empty((len(heads), 0))), LATENT)


@pytest.mark.parametrize(("coder", "least"), [("autoencoder", 0.7), ("pca", 0.5)])
@pytest.mark.parametrize(("prefix", "strength", "grids"), [
    (1, 0.9, GRIDS), (0, 0.8, GRIDS), (5, 0.6, GRIDS), (1, 0.8, (*GRIDS, *OBLONG))])
def test_heads_land_by_pattern_and_not_by_grid(space: Space, coder: str, least: float,
                                               prefix: int, strength: float, grids: tuple) -> None:
    """Heads whose patterns are flat on average (ALIKE) may be taken for each other."""
    shares, pattern, grid = heads_of(prefix, strength, seed=7, grids=grids)
    latents = space.coders[coder].encode(shares.mean(1))
    far = pairwise_distances(latents)
    far[grid[:, None] == grid] = np.inf
    nearest = pattern[far.argmin(1)]
    assert (nearest == pattern).mean() > 0.85
    wrong = nearest != pattern
    assert {*pattern[wrong], *nearest[wrong]} <= ALIKE
    labels = fit_clusters(latents, count=len(set(pattern))).assign(latents)
    assert adjusted_rand_score(pattern, labels) > least
    assert abs(adjusted_rand_score(grid, labels)) < 0.1


def test_reconstructions_are_of_the_pattern_too(space: Space) -> None:
    """Of the cells beside the middle, that where the head looks is the largest."""
    shares, pattern, _ = heads_of(1, 0.9, seed=8)
    decoded = space.autoencoder.decode(space.autoencoder.encode(shares.mean(1)))
    kernels = decoded[:, :PATCH.cells].reshape(-1, PATCH.side, PATCH.side)
    middle = PATCH.side // 2
    beside = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    for name in beside:
        for kernel in kernels[pattern == name]:
            found = {other: kernel[middle + down, middle + right]
                     for other, (down, right) in beside.items()}
            assert max(found, key=found.get) == name
    assert all(kernel.argmax() == kernel.size // 2 for kernel in kernels[pattern == "self"])
