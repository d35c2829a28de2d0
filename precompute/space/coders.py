"""What turns a pattern into a few numbers and back: the principal components, and the mean.

Patterns are shares (`store.canon`): each group of a row sums to 1. A coder works on the square
roots of p times the length of the group, so that a uniform pattern is all ones, Euclidean distance
is Hellinger's, and no share is too small to count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA

from store.canon import STEPS, Kind

Shares = Float[np.ndarray, "pattern share"]
Latents = Float[np.ndarray, "pattern latent"]

FLOOR = (0.5 / STEPS) ** 2
"""The share that a reconstruction has at least: less than a byte of the inputs can tell from 0."""
COMPONENTS_FLOOR = 1e-3
"""The same of the components, whose sums go below 0 where shares are small: their KL divergence is
least about here."""


@runtime_checkable
class Coder(Protocol):
    """Patterns as latents, and latents as patterns."""

    def encode(self, shares: Shares) -> Latents:
        """A row of numbers for each pattern."""

    def decode(self, latents: Latents) -> Shares:
        """The pattern of each row of numbers; each group sums to 1."""


def roots(kind: Kind, shares: Shares) -> Shares:
    """sqrt(p * length of its group), in float32."""
    found = np.empty(shares.shape, np.float32)
    for group in kind.groups:
        found[:, group] = np.sqrt(shares[:, group] * (group.stop - group.start))
    return found


def normalised(kind: Kind, shares: Shares, least: float = FLOOR) -> Shares:
    """Shares of at least so much, of which each group sums to 1."""
    found = np.maximum(shares, least)
    for group in kind.groups:
        found[:, group] /= found[:, group].sum(1, keepdims=True)
    return found


def divergence(kind: Kind, shares: Shares, decoded: Shares) -> Float[np.ndarray, pattern]:
    """KL divergence of reconstructions from patterns in nats, summed over the groups."""
    ratio = np.log(np.maximum(shares, 1e-12)) - np.log(normalised(kind, decoded))
    return np.maximum((shares * ratio).sum(1), 0)


@dataclass(frozen=True)
class Components:
    """The first principal components of the roots."""

    kind: Kind
    mean: Float[np.ndarray, share]
    axes: Float[np.ndarray, "latent share"]

    def encode(self, shares: Shares) -> Latents:
        return (roots(self.kind, shares) - self.mean) @ self.axes.T

    def decode(self, latents: Latents) -> Shares:
        """The negative parts of a sum of components are no shares: they are cut off."""
        return normalised(self.kind, self._unscaled(latents), COMPONENTS_FLOOR)

    def _unscaled(self, latents: Latents) -> Shares:
        found = np.square(np.maximum(latents @ self.axes + self.mean, 0))
        for group in self.kind.groups:
            found[:, group] /= group.stop - group.start
        return found


def fit_components(kind: Kind, shares: Shares, latent: int) -> Components:
    """So many components, in order of variance, each with its largest entry positive; those that
    the patterns do not have are zero."""
    values = roots(kind, shares)
    count = min(latent, len(values) - 1, kind.size)
    axes = np.zeros((latent, kind.size), np.float32)
    if count > 0:
        found = PCA(count, svd_solver="covariance_eigh").fit(values).components_
        axes[:count] = found * np.sign(found[range(count), np.abs(found).argmax(1)])[:, None]
    return Components(kind, values.mean(0), axes)


@dataclass(frozen=True)
class MeanPattern:
    """The coder that knows nothing: no numbers, and always the mean of the patterns."""

    kind: Kind
    mean: Float[np.ndarray, share]

    def encode(self, shares: Shares) -> Latents:
        return np.zeros((len(shares), 0), np.float32)

    def decode(self, latents: Latents) -> Shares:
        return normalised(self.kind, np.tile(self.mean, (len(latents), 1)))


def fit_mean(kind: Kind, shares: Shares) -> MeanPattern:
    return MeanPattern(kind, shares.mean(0))
