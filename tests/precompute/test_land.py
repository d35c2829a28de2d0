"""Heads of known patterns land by pattern and not by grid, in a space that has seen other ones."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, pairwise_distances

from precompute.space.clusters import fit_clusters
from precompute.space.fitting import fit
from precompute.space.inputs import Means, Single
from precompute.space.space import Space
from store.canon import CLASS, PATCH, Kind
from tests.precompute.patterns_world import GRIDS, OBLONG, every, patterns_of

IMAGES = 6
LATENT = 8


def heads_of(kind: Kind, prefix: int, strength: float, seed: int, grids: tuple = GRIDS,
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns (head x image x share) of every kind of head on these grids, and which is which."""
    cases = every(*grids)
    looks = [patterns_of(pattern, grid, prefix=prefix, images=IMAGES, strength=strength, seed=seed)
             for pattern, grid in cases]
    shares = np.stack([np.asarray(look[kind.name], np.float32) for look in looks])
    return shares, np.array([p for p, _ in cases]), np.array([f"{g}" for _, g in cases])


@pytest.fixture(scope="module")
def space() -> Space:
    """Fitted on heads with and without a class token, sharp and soft, on square grids."""
    shares = np.concatenate([heads_of(PATCH, prefix, strength, 0)[0]
                             for prefix in (0, 1) for strength in (0.5, 0.7, 0.9)])
    heads = np.arange(len(shares))
    model = np.full(len(heads), "m", object)
    single = Single(PATCH, np.repeat(model, IMAGES), np.repeat(heads * 0, IMAGES),
                    np.repeat(heads, IMAGES), shares.reshape(-1, PATCH.size),
                    np.tile(np.arange(IMAGES), len(heads)))
    return fit(single, Means(PATCH, model, heads * 0, heads, shares.mean(1), model), LATENT)


@pytest.mark.parametrize("coder", ["autoencoder", "pca"])
@pytest.mark.parametrize(("prefix", "strength", "grids"), [
    (1, 0.9, GRIDS), (0, 0.8, GRIDS), (5, 0.6, GRIDS), (1, 0.8, (*GRIDS, *OBLONG))])
def test_heads_land_by_pattern_and_not_by_grid(space: Space, coder: str, prefix: int,
                                               strength: float, grids: tuple) -> None:
    shares, pattern, grid = heads_of(PATCH, prefix, strength, seed=7, grids=grids)
    latents = space.coders[coder].encode(shares.mean(1))
    far = pairwise_distances(latents)
    far[grid[:, None] == grid] = np.inf
    assert (pattern[far.argmin(1)] == pattern).mean() >= 0.95
    labels = fit_clusters(latents, count=len(set(pattern))).assign(latents)
    assert adjusted_rand_score(pattern, labels) > 0.8
    assert abs(adjusted_rand_score(grid, labels)) < 0.1


def test_reconstructions_are_of_the_pattern_too(space: Space) -> None:
    """The largest cell of a one-patch head's kernel stays on its side of the middle."""
    shares, pattern, _ = heads_of(PATCH, 1, 0.9, seed=8)
    decoded = space.autoencoder.decode(space.autoencoder.encode(shares.mean(1)))
    kernels = decoded[:, :PATCH.cells].reshape(-1, PATCH.side, PATCH.side)
    middle = PATCH.side // 2
    rows, columns = np.indices((PATCH.side, PATCH.side)) - middle
    down, right = ((kernels * step).sum((1, 2)) for step in (rows, columns))
    for name, along, sign in (("left", right, -1), ("right", right, 1), ("up", down, -1),
                              ("down", down, 1)):
        across = down if along is right else right
        assert (sign * along[pattern == name] > 3 * np.abs(across[pattern == name])).all()
    assert all(kernel.argmax() == kernel.size // 2 for kernel in kernels[pattern == "self"])


def test_class_patterns_do_not_tell_the_grid() -> None:
    """Class tokens that look about evenly, on any grid."""
    shares, _, grid = heads_of(CLASS, 1, 0.9, seed=9)
    heads = np.arange(len(shares))
    model = np.full(len(heads), "m", object)
    single = Single(CLASS, np.repeat(model, IMAGES), np.repeat(heads * 0, IMAGES),
                    np.repeat(heads, IMAGES), shares.reshape(-1, CLASS.size),
                    np.tile(np.arange(IMAGES), len(heads)))
    means = Means(CLASS, model, heads * 0, heads, shares.mean(1), model)
    assert np.isfinite(fit(single, means, 4).columns(means.shares)["error"]).all()
