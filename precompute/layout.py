"""The 2-D layout of a model's images: t-SNE of the embeddings, as a map and nothing more."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

MOST = 20_000
"""Beyond this many images the first two principal components stand in: t-SNE would take hours."""


def layout(embeddings: Float[np.ndarray, "image embedding"]) -> Float[np.ndarray, "image 2"]:
    """Places in the plane, seeded. Fewer than four images lie on a line; equal ones on a point."""
    x = np.asarray(embeddings, dtype=np.float64)
    count = len(x)
    if count < 4 or np.allclose(x, x[0]):
        return np.stack([np.arange(count, dtype=float), np.zeros(count)], axis=1)
    parts = PCA(min(50, *x.shape), random_state=0).fit_transform(x - x.mean(0))
    if count > MOST or parts.shape[1] < 2:
        return np.pad(parts[:, :2], ((0, 0), (0, max(0, 2 - parts.shape[1]))))
    return TSNE(2, perplexity=min(30.0, (count - 1) / 3), init=_spread(parts), random_state=0,
                learning_rate="auto").fit_transform(parts)


def _spread(parts: np.ndarray) -> np.ndarray:
    """A start for t-SNE: the first two components at the scale it expects."""
    return (parts[:, :2] / parts[:, 0].std() * 1e-4).astype(np.float32)
