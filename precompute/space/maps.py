"""Where latents lie in the plane: heads by t-SNE, everything else around the heads like it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.neighbors import NearestNeighbors

from precompute.layout import layout
from precompute.space.coders import Latents

Places = Float[np.ndarray, "pattern 2"]

NEAREST = 5
"""Anchors that a pattern is placed by."""


@dataclass(frozen=True)
class Map:
    """Anchors: latents of the mean patterns of heads, and their places in the plane."""

    anchors: Float[np.ndarray, "anchor latent"]
    places: Float[np.ndarray, "anchor 2"]

    def place(self, latents: Latents) -> Places:
        """The mean of the places of the NEAREST anchors, weighted by 1 / distance^4.

        An anchor is where it is, and what is like one head only lies beside that head. The same
        rule serves an image's patterns, heads of other models, and centres of clusters.
        """
        count = min(NEAREST, len(self.anchors))
        far, which = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(
            self.anchors).kneighbors(latents)
        # Distances in units of the smallest, so that the powers of tiny ones are numbers too.
        least = np.maximum(far[:, :1], 1e-6)
        weight = (np.maximum(far, 1e-6) / least) ** -4
        weight /= weight.sum(1, keepdims=True)
        return (self.places[which] * weight[:, :, None]).sum(1)


def fit_map(latents: Latents) -> Map:
    """Lay heads out by their latents (`layout.layout`)."""
    return Map(latents.astype(np.float32), layout(latents).astype(np.float32))
