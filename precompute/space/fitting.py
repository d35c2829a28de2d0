"""Fitting the space of one kind of patterns on the heads of all models of a store."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np

from precompute.progress import Progress
from precompute.space import inputs
from precompute.space.atlas import Atlas, columns_of
from precompute.space.autoencoder import epochs, fit_autoencoder
from precompute.space.clusters import fit_clusters
from precompute.space.coders import fit_components
from precompute.space.inputs import Means, Single
from precompute.space.maps import fit_map
from precompute.space.space import Space
from store import places
from store.canon import Kind
from store.series_tables import BOUNDS, PLACES

SEED = 0


def fit_kind(atlas: Atlas, kind: Kind, latent: int) -> None:
    """Fit a space and put it into `pattern_spaces`, in place of an older one. What was placed in
    the spaces before is taken away first, so that what is there is always of one fit.

    Does nothing where no head has such a pattern.
    """
    heads = inputs.means(atlas.store("heads"), kind)
    if not len(heads):
        return
    patterns = inputs.sample(atlas.store("images"), kind, heads.models)
    space = fit(patterns, heads, latent)
    forget(atlas)
    others = [row for name, row in atlas.rows.items() if name != kind.name]
    made = {"kind": kind.name, "space_id": space.space_id, "models": heads.models,
            "patterns": len(patterns), "latent": latent, "epochs": epochs(len(patterns)),
            "seed": SEED, **bounds(space, patterns), "weights": space.to_bytes(),
            "versions": json.dumps({name: version(name) for name in (
                "headatlas", "torch", "scikit-learn")})}
    atlas.writer.write_file(atlas.file("pattern_spaces").relative_to(atlas.path), columns_of(
        "pattern_spaces", sorted([*others, made], key=lambda row: row["kind"])))


def bounds(space: Space, patterns: Single) -> dict[str, list[float]]:
    """The columns of `pattern_spaces` that say what these patterns span in each map."""
    found = space.columns(patterns.shares)
    return {BOUNDS[name]: [float(end(np.asarray(found[axis]))) for axis in axes
                           for end in (np.min, np.max)] for name, axes in PLACES.items()}


def fit(patterns: Single, heads: Means, latent: int) -> Space:
    """The space of these patterns of single images, laid out and clustered by the heads' means."""
    kind, shares = patterns.kind, patterns.shares
    with Progress(f"patterns: fitting the {kind.name} space", epochs(len(patterns)),
                  "passes") as progress:
        coder = fit_autoencoder(kind, shares, latent, SEED, tell=progress.advance)
    pca = fit_components(kind, shares, latent)
    latents = coder.encode(heads.shares)
    maps = {"autoencoder": fit_map(latents), "pca": fit_map(pca.encode(heads.shares))}
    return Space(kind, coder, pca, maps, fit_clusters(latents, SEED))


def forget(atlas: Atlas) -> None:
    """Take away all that was placed in spaces."""
    for table in ("pattern_evidence", "pattern_clusters", "head_places", "head_patterns"):
        for file in places.files_of(atlas.path, table):
            atlas.writer.remove(file.relative_to(atlas.path))
