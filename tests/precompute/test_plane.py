"""Places in the plane: beyond what t-SNE can do, principal components of streamed embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.decomposition import PCA

from precompute import plane as planes
from precompute.layout import layout
from precompute.plane import plane


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    return iter(np.array_split(x, 7))


def test_few_images_are_laid_out_as_a_whole() -> None:
    x = np.random.default_rng(0).normal(size=(40, 9))
    assert np.array_equal(plane(lambda: _chunks(x), 40), layout(x))


@pytest.mark.parametrize("width", [1, 2, 9])
def test_many_images_are_projected_chunk_by_chunk(width: int,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "MOST", 30)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, width)) * np.arange(1, width + 1) + 5
    found = plane(lambda: _chunks(x), 200)
    wanted = PCA(min(2, width)).fit_transform(x)
    assert found.shape == (200, 2)
    for axis in range(min(2, width)):
        assert np.allclose(np.abs(found[:, axis]), np.abs(wanted[:, axis]))
