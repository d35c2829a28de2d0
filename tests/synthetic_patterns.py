"""Pattern tables of the synthetic store.

Head h of every layer bears the pattern `LOOKS[h % 4]`, whatever the model: so heads of all models
fall into four clusters. Attention is made by `patterns_world`, and what the store keeps of it by
the functions that do so in real stores; the pattern spaces, clusters and matches are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from precompute.anatomy import Geometry
from precompute.canonical import canonical
from precompute.kept import attention_rows, compress
from precompute.rows import PerLayer
from precompute.strength import look
from store import places
from store.canon import KINDS, Kind, encode
from store.pattern_tables import AE_BETTER, AS_GOOD
from store.schema import TABLES
from store.writer import StoreWriter, to_table
from tests.precompute.patterns_world import attention_of

LOOKS = ("local", "right", "row", "uniform")
KEPT = 3
"""Of how many images, the first ones, attention is kept."""

MADE = 6
"""Images whose attention is made; the others look the same again."""

LATENT = 4


def geometry(grid: tuple[int, int], class_token: bool, registers: int, **_: object) -> Geometry:
    return Geometry(*grid, class_token + registers, class_token)


def attention(layer: int, shape: dict) -> Tensor:
    """float[image, window, head, query, key] of a layer on the first MADE images."""
    prefix = shape["class_token"] + shape["registers"]
    return torch.cat([_attention(LOOKS[head % 4], shape["grid"], prefix, layer)
                      for head in range(shape["heads"])], dim=2)


@cache
def _attention(pattern: str, grid: tuple[int, int], prefix: int, layer: int) -> Tensor:
    return attention_of(pattern, grid, prefix, MADE, seed=10 * layer).float()


@cache
def _canonical(grid: tuple[int, int], class_token: bool, registers: int, layers: int, heads: int
               ) -> list[PerLayer]:
    shape = dict(grid=grid, class_token=class_token, registers=registers, heads=heads)
    return [canonical(look(attention(layer, shape), geometry(**shape)))
            for layer in range(layers)]


def pattern_inputs(name: str, ids: np.ndarray, shape: dict) -> pa.Table:
    """Rows ordered by image, layer, head."""
    found = _canonical(*(shape[key] for key in ("grid", "class_token", "registers", "layers",
                                                "heads")))
    rows = [{"model": name, "image": int(image), "layer": layer, "head": head,
             **{column: _cell(values[image % MADE, head]) for column, values in made.items()}}
            for image in ids for layer, made in enumerate(found) for head in range(shape["heads"])]
    return _table("pattern_inputs", rows)


def _cell(value: Tensor) -> object:
    if not value.ndim:
        return value.item()
    return None if value.isnan().any() else encode(value.double().numpy())


def kept_attention(name: str, images: int, shape: dict) -> pa.Table:
    count = min(KEPT, images)
    return attention_rows(name, range(count), [compress(attention(layer, shape)[:count])
                                               for layer in range(shape["layers"])])


def add_patterns(writer: StoreWriter, shapes: dict[str, dict], images: int) -> None:
    """Write what is fitted on the patterns of all models, and the clusters of their heads."""
    for name, shape in shapes.items():
        folder = f"models/{places.slug(name)}"
        heads = list(np.ndindex(shape["layers"], shape["heads"]))
        _cluster_heads(writer, name, heads, shape)
        writer.write_file(f"{folder}/head_places.parquet", _places(name, heads, shape, None))
        writer.write_file(f"{folder}/patterns/00000.parquet", _places(
            name, heads, shape, range(images)))
        writer.write_file(f"{folder}/head_matches.parquet", _matches(name, heads, shapes))
    writer.write_file("patterns/pattern_spaces.parquet", _spaces(shapes))
    writer.write_file("patterns/pattern_clusters.parquet", _clusters(shapes))
    writer.write_file("patterns/pattern_evidence.parquet", _evidence())


def kinds_of(shape: dict) -> list[str]:
    return list(KINDS) if shape["class_token"] else ["patch"]


def _cluster_heads(writer: StoreWriter, name: str, heads: Sequence, shape: dict) -> None:
    file = places.model_folder(writer.path, name) / "heads.parquet"
    table = pq.read_table(file)
    for column, there in (("cluster", True), ("class_cluster", shape["class_token"])):
        field = TABLES["heads"].arrow.field(column)
        clusters = pa.array([h % 4 if there else None for _, h in heads], field.type)
        table = table.set_column(table.schema.get_field_index(column), field, clusters)
    writer.write_file(file.relative_to(writer.path), table)


def _laid_out(kind: str, layer: int, head: int, seed: int) -> dict:
    rng = np.random.default_rng((seed, layer, head, len(kind)))
    angle = np.pi / 2 * (head % 4) + 0.1 * layer
    spread = 0.2 if seed == 0 else 1.0
    x, y = 10 * np.cos(angle) + spread * rng.normal(), 10 * np.sin(angle) + spread * rng.normal()
    return {"latent": rng.normal(size=LATENT), "pca": rng.normal(size=LATENT), "x": x, "y": y,
            "pca_x": y / 5, "pca_y": -x / 5, "error": 0.01, "pca_error": 0.03}


def _places(name: str, heads: Sequence, shape: dict, images: range | None) -> pa.Table:
    table = "head_places" if images is None else "head_patterns"
    rows = []
    for kind in kinds_of(shape):
        for image in images or [None]:
            rows += [{"model": name, "layer": layer, "head": head, "kind": kind,
                      **({"cluster": head % 4} if image is None else {"image": image}),
                      **_laid_out(kind, layer, head, 0 if image is None else image + 1)}
                     for layer, head in heads]
    return _table(table, rows)


def _matches(name: str, heads: Sequence, shapes: dict) -> pa.Table:
    rows = [{"model": name, "layer": layer, "head": head, "other_model": other,
             "other_layer": layer % shapes[other]["layers"],
             "other_head": head % shapes[other]["heads"], "similarity": 0.9 - 0.05 * layer,
             "p_value": 0.01 if layer < 3 else 0.4, "matched": layer < 3}
            for layer, head in heads for other in shapes if other != name]
    return _table("head_matches", rows)


def _spaces(shapes: dict) -> pa.Table:
    fitted = [name for name in shapes if name != "gamma"] or list(shapes)
    return _table("pattern_spaces", [
        {"kind": kind, "space_id": "made up", "models": fitted, "patterns": 1000, "latent": LATENT,
         "epochs": 60, "seed": 0, "bounds": [-12, 12] * 2, "pca_bounds": [-2.4, 2.4] * 2,
         "weights": b"", "versions": "{}"}
        for kind in KINDS])


def _clusters(shapes: dict) -> pa.Table:
    rows = []
    for kind in KINDS.values():
        for cluster in range(4):
            own = [shape for shape in shapes.values() if kind.name in kinds_of(shape)]
            heads = sum(shape["layers"] * len(range(cluster, shape["heads"], 4)) for shape in own)
            rows.append({"kind": kind.name, "cluster": cluster, "heads": heads,
                         "name": f"{LOOKS[cluster]} 100 %", "agreement": 0.9 - 0.1 * cluster,
                         "prototype": _prototype(kind, cluster),
                         "x": 10 * np.cos(np.pi / 2 * cluster),
                         "y": 10 * np.sin(np.pi / 2 * cluster)})
    return _table("pattern_clusters", rows)


def _prototype(kind: Kind, cluster: int) -> np.ndarray:
    """The mean pattern of such heads on a grid of 7 x 7."""
    shape = dict(grid=(7, 7), class_token=True, registers=0, layers=1, heads=4)
    (made,) = _canonical(**shape)
    return made[kind.name][:, cluster].mean(0).numpy()


def _evidence() -> pa.Table:
    made = [("held-out images", "", (0.010, 0.025, 0.21), None, -1, AE_BETTER),
            ("same head on another image", "", (0.50, 0.51, None), 0.014, 1, AS_GOOD),
            ("model held out", "beta", (0.068, 0.097, 0.30), None, -1, AE_BETTER)]
    rows = [{"kind": kind, "space": space, "test": test, "detail": detail, "value": value,
             "chance": chance, "low": None, "high": None, "better": better,
             "text": f"What {test} says: {verdict}."}
            for kind in KINDS for test, detail, values, chance, better, verdict in made
            for space, value in zip(("autoencoder", "pca", "mean"), values, strict=True)
            if value is not None]
    return _table("pattern_evidence", rows)


def _table(name: str, rows: list[dict]) -> pa.Table:
    return to_table(name, {c.name: [row.get(c.name) for row in rows]
                           for c in TABLES[name].columns})

