"""Placing a store's patterns in its spaces: every image's, every head's, and the clusters."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from precompute.freshness import read_note, write_made
from precompute.progress import Progress
from precompute.space import inputs
from precompute.space.atlas import Atlas, write_rows
from precompute.space.inputs import Patterns
from precompute.space.space import Space
from store import places
from store.schema import TABLES
from store.writer import to_table

CLUSTERS = {"patch": "cluster", "class": "class_cluster"}
"""What `heads` calls the cluster of each kind of pattern."""
CLUSTERED = b"clustered"
"""In the file of `heads`: of which spaces its clusters are."""


def place_images(atlas: Atlas, model: str) -> None:
    """`head_patterns` of a model: one file for each part of its images, read a little at a time."""
    home = places.model_folder(atlas.path, model) / "patterns"
    parts = [part for part in places.done_units(atlas.path, model, "heads")
             if read_note(home / f"{part}.parquet") != atlas.ids]
    if not parts:
        return
    with Progress(f"{model}: placing patterns", len(parts), "parts") as progress:
        for part in parts:
            rows = pa.concat_tables(_place_part(atlas, model, part)).sort_by(
                [(key, "ascending") for key in TABLES["head_patterns"].keys])
            write_made(atlas.writer, home / f"{part}.parquet", rows, atlas.ids)
            progress.advance(1)


def _place_part(atlas: Atlas, model: str, part: str) -> Iterator[pa.Table]:
    yield TABLES["head_patterns"].arrow.empty_table()
    for rows in inputs.stream(atlas.path, model, part):
        for space in atlas.spaces.values():
            patterns = inputs.decoded(space.kind, model, rows)
            if len(patterns):
                yield to_table("head_patterns",
                               {"image": patterns.image, **_place(space, patterns)})


def _place(space: Space, patterns: Patterns) -> dict[str, object]:
    """The columns that `head_patterns` and `head_places` share."""
    return {"model": patterns.model, "layer": patterns.layer, "head": patterns.head,
            "kind": [space.kind.name] * len(patterns), **space.columns(patterns.shares)}


def place_heads(atlas: Atlas, model: str) -> None:
    """`head_places` of a model, and the clusters in its `heads`."""
    file, made_from = atlas.file("head_places", model), atlas.heads_of(model)
    if read_note(file) != made_from:
        write_made(atlas.writer, file, _places_of(atlas, model), made_from)
    with atlas.writer.lock():  # another run may be making `heads` again
        _name_clusters(atlas, model)


def _places_of(atlas: Atlas, model: str) -> pa.Table:
    found = [TABLES["head_places"].arrow.empty_table()]
    for space in atlas.spaces.values():
        heads = inputs.means(atlas.store("heads"), space.kind)
        own = heads.where(heads.model == model)
        if len(own):
            cluster = space.clusters.assign(space.autoencoder.encode(own.shares))
            found.append(to_table("head_places", {"cluster": cluster, **_place(space, own)}))
    return pa.concat_tables(found)


def _name_clusters(atlas: Atlas, model: str) -> None:
    file = atlas.file("heads", model)
    if read_note(file, CLUSTERED) == atlas.ids:
        return
    rows = pq.read_table(file)
    cluster = {(row["kind"], row["layer"], row["head"]): row["cluster"]
               for row in pq.read_table(atlas.file("head_places", model)).to_pylist()}
    heads = list(zip(rows["layer"].to_pylist(), rows["head"].to_pylist(), strict=True))
    for kind, name in CLUSTERS.items():
        at = rows.column_names.index(name)
        values = [cluster.get((kind, *head)) for head in heads]
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.types[at]))
    notes = {**(rows.schema.metadata or {}), CLUSTERED: atlas.ids}
    atlas.writer.write_file(file.relative_to(atlas.path), rows.replace_schema_metadata(notes))


def write_clusters(atlas: Atlas) -> None:
    """`pattern_clusters`: how many heads of all models each has, and what they are called."""
    file, made_from = atlas.file("pattern_clusters"), atlas.heads_of(*atlas.models)
    if read_note(file) != made_from:
        rows = [row for space in atlas.spaces.values() for row in _clusters_of(atlas, space)]
        write_rows(atlas, "pattern_clusters", file, rows, made_from)


def _clusters_of(atlas: Atlas, space: Space) -> Iterator[dict]:
    heads = inputs.means(atlas.store("heads"), space.kind)
    labels = space.clusters.assign(space.autoencoder.encode(heads.shares))
    xy = space.maps["autoencoder"].place(space.clusters.centres)
    for cluster, agreement in enumerate(space.clusters.agreement):
        own = labels == cluster
        if own.any():
            mean = space.autoencoder.encode(heads.shares[own].mean(0, keepdims=True))
            yield {"kind": space.kind.name, "cluster": cluster, "name": heads.common_name(own),
                   "heads": int(own.sum()), "prototype": space.autoencoder.decode(mean)[0],
                   "agreement": agreement, "x": xy[cluster, 0], "y": xy[cluster, 1]}
