"""Where a model's images lie in the plane, in memory that does not grow with their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from precompute.layout import MOST, layout

Embeddings = Float[np.ndarray, "image embedding"]
Places = Float[np.ndarray, "image 2"]


def plane(chunks: Callable[[], Iterator[Embeddings]], images: int) -> Places:
    """t-SNE of the embeddings; of more than MOST images, their first two principal components.

    `chunks()` runs through all images in order, as often as it is called.
    """
    if images <= MOST:
        return layout(np.concatenate(list(chunks())))
    centre, axes = _components(chunks(), images)
    return np.concatenate([(chunk - centre) @ axes for chunk in chunks()])


def _components(chunks: Iterator[Embeddings], images: int,
                ) -> tuple[Float[np.ndarray, embedding], Float[np.ndarray, "embedding 2"]]:
    """The mean and the two directions of largest variance, each with its largest entry positive."""
    total, products = np.zeros(()), np.zeros(())
    for chunk in chunks:
        x = chunk.astype(np.float64)
        total, products = total + x.sum(0), products + x.T @ x
    centre = total / images
    _, vectors = np.linalg.eigh(products / images - np.outer(centre, centre))
    axes = vectors[:, ::-1][:, :2]
    signs = np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])
    return centre, np.pad(axes * signs, ((0, 0), (0, 2 - axes.shape[1])))
