"""The pattern columns of `heads`: mean patterns, and the names that rules give them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from precompute.anatomy import Geometry, Windows
from precompute.canonical import MASSES, uniform_masses
from precompute.content import content_columns
from precompute.names import RULES, Named, Traits, name_heads
from store.canon import CLASS, NEAR_SIDE, PATCH, Kind, decode, unpack
from store.reader import Store

CHUNK = 64
"""Images whose rows are looked at together."""

EDGE = 1e-6
"""Where a uniform head's mass is this close to 1, nothing can exceed it."""

Head = tuple[int, int]


class _Means:
    """Of vectors that stream by, head by head; NaN where there were none."""

    def __init__(self, heads: int, size: int) -> None:
        self.sums, self.counts = np.zeros((heads, size)), np.zeros(heads)

    def add(self, head: Int[np.ndarray, row], values: Float[np.ndarray, "row size"]) -> None:
        np.add.at(self.sums, head, values)
        np.add.at(self.counts, head, 1)

    def means(self) -> Float[np.ndarray, "head size"]:
        return np.where(self.counts[:, None] > 0,
                        self.sums / np.maximum(self.counts, 1)[:, None], np.nan)


def pattern_columns(store: Store, model: str, heads: Sequence[Head], images: Sequence[int],
                    ) -> dict[str, list]:
    """The columns of `heads` about patterns, for these heads in order, over these images. Those of
    clusters are NULL: they are known when the patterns of all models are fitted."""
    patch, near, masses, of_class = _mean_patterns(store, model, heads, images)
    nothing = [None] * len(heads)
    return {**_names(store, model, heads, patch, near, masses),
            "patch_pattern": _lists(patch), "class_pattern": _lists(of_class),
            **content_columns(store, model, heads), "cluster": nothing, "class_cluster": nothing}


def _mean_patterns(store: Store, model: str, heads: Sequence[Head], images: Sequence[int],
                   ) -> list[Float[np.ndarray, "head size"]]:
    """Mean patch pattern, near kernel, masses and class pattern of every head."""
    number = {head: i for i, head in enumerate(heads)}
    found = [_Means(len(heads), size) for size in (PATCH.size, NEAR_SIDE ** 2, len(MASSES),
                                                   CLASS.size)]
    for start in range(0, len(images), CHUNK):
        chunk = images[start:start + CHUNK]
        rows = store.query("FROM pattern_inputs WHERE model = ? AND image BETWEEN ? AND ?",
                           [model, chunk[0], chunk[-1]]).combine_chunks()
        head = np.array([number[key] for key in zip(
            rows["layer"].to_pylist(), rows["head"].to_pylist(), strict=True)], dtype=int)
        masses = np.stack([np.asarray(rows[m].to_numpy(), dtype=float) for m in MASSES], axis=1)
        known = ~np.isnan(masses).any(axis=1)
        for means, (there, values) in zip(found, (
                _shares(rows["patch"], PATCH), _shares(rows["near"], None),
                (known, masses[known]), _shares(rows["class"], CLASS)), strict=True):
            means.add(head[there], values)
    return [means.means() for means in found]


def _shares(column: pa.ChunkedArray, kind: Kind | None) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a column of bytes are not NULL, and their shares."""
    lists = column.combine_chunks()
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    codes = lists.flatten().to_numpy().reshape(there.sum(), kind.size if kind else NEAR_SIDE ** 2)
    return there, decode(kind, codes) if kind else unpack(codes)


def _names(store: Store, model: str, heads: Sequence[Head], patch: np.ndarray, near: np.ndarray,
           masses: np.ndarray) -> dict[str, list]:
    known = ~np.isnan(np.hstack([patch, near, masses])).any(axis=1)
    uniform = _uniform(store, model, [head for head, there in zip(heads, known, strict=True)
                                      if there])
    left = 1 - uniform
    excess = np.where(left > EDGE, masses[known] - uniform, 0) / np.maximum(left, EDGE)
    shares = patch[known]
    named = iter(name_heads(Traits(
        dict(zip(MASSES, excess.T, strict=True)), near[known].reshape(-1, NEAR_SIDE, NEAR_SIDE),
        shares[:, PATCH.groups[0]].reshape(-1, PATCH.side, PATCH.side), shares[:, PATCH.cells])))
    found: list[Named | None] = [next(named) if there else None for there in known]
    return {"pattern": [one and one.name for one in found],
            "pattern_score": [one and one.score for one in found],
            "pattern_way": [one and one.way for one in found],
            "pattern_scores": [one and [
                {"name": rule.name, "score": score, "needed": rule.needed}
                for rule, score in zip(RULES, one.scores, strict=True)] for one in found]}


def _uniform(store: Store, model: str, heads: Sequence[Head]) -> Float[np.ndarray, "head mass"]:
    """The masses of heads in these heads' places that look at all patches alike."""
    rows = store.query("FROM layers WHERE model = ?", [model]).to_pylist()
    by_layer = {row["layer"]: list(uniform_masses(geometry_of(row)).values()) for row in rows
                if not row["class_query"]}
    return np.array([by_layer[layer] for layer, _ in heads]).reshape(-1, len(MASSES))


def geometry_of(layer: dict) -> Geometry:
    """The geometry that a row of `layers` describes."""
    windows = None if layer["window_h"] is None else Windows(
        layer["window_h"], layer["window_w"], layer["shift_h"], layer["shift_w"])
    return Geometry(layer["grid_h"], layer["grid_w"], layer["prefix_tokens"],
                    layer["class_token"], windows, layer["class_query"])


def _lists(means: Float[np.ndarray, "head size"]) -> list:
    return [None if np.isnan(row).any() else row for row in means]
