"""A fitted pattern space: everything that places a pattern, as one value.

What is fitted is in here and nowhere else: coders, maps and centres of clusters. All tables of
patterns follow from a space and the store's pattern inputs, so they can be made again at any time.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from precompute.space import autoencoder
from precompute.space.autoencoder import Autoencoder
from precompute.space.clusters import Clusters
from precompute.space.coders import Coder, Components, Shares, divergence
from precompute.space.maps import Map
from store.canon import KINDS, Kind

_COLUMNS = {"autoencoder": ("latent", "x", "y", "error"),
            "pca": ("pca", "pca_x", "pca_y", "pca_error")}
"""What a space calls its latents, places and errors in `head_patterns` and `head_places`."""


@dataclass(frozen=True)
class Space:
    """The space of one kind of patterns."""

    kind: Kind
    autoencoder: Autoencoder
    pca: Components
    maps: dict[str, Map]
    clusters: Clusters

    @property
    def latent(self) -> int:
        """Numbers of a latent."""
        return len(self.pca.axes)

    @property
    def coders(self) -> dict[str, Coder]:
        return {"autoencoder": self.autoencoder, "pca": self.pca}

    @cached_property
    def space_id(self) -> str:
        """A hash of all that was fitted."""
        content = hashlib.sha256(self.kind.name.encode())
        for name, values in sorted(self._arrays().items()):
            content.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
        return content.hexdigest()[:16]

    def columns(self, shares: Shares) -> dict[str, object]:
        """Where patterns lie: latents, places in the plane and errors, as columns of tables."""
        found: dict[str, object] = {}
        for name, coder in self.coders.items():
            latents = coder.encode(shares)
            places = self.maps[name].place(latents)
            values = (list(latents), places[:, 0], places[:, 1],
                      divergence(self.kind, shares, coder.decode(latents)))
            found |= zip(_COLUMNS[name], values, strict=True)
        return found

    def to_bytes(self) -> bytes:
        """All that was fitted, as an npz file."""
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **self._arrays())
        return file.getvalue()

    def _arrays(self) -> dict[str, np.ndarray]:
        found = {f"network.{name}": values
                 for name, values in autoencoder.to_arrays(self.autoencoder).items()}
        for name, map_ in self.maps.items():
            found |= {f"{name}.anchors": map_.anchors, f"{name}.places": map_.places}
        return found | {"pca.mean": self.pca.mean, "pca.axes": self.pca.axes,
                        "clusters.centres": self.clusters.centres,
                        "clusters.agreement": self.clusters.agreement}


def from_bytes(kind_name: str, content: bytes) -> Space:
    """The space that `to_bytes` made these from."""
    kind = KINDS[kind_name]
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    network = {name.removeprefix("network."): values for name, values in arrays.items()
               if name.startswith("network.")}
    pca = Components(kind, arrays["pca.mean"], arrays["pca.axes"])
    return Space(kind, autoencoder.from_arrays(kind, len(pca.axes), network), pca,
                 {name: Map(arrays[f"{name}.anchors"], arrays[f"{name}.places"])
                  for name in _COLUMNS},
                 Clusters(arrays["clusters.centres"], arrays["clusters.agreement"]))
