"""Tensors into columns: the one place where measures become rows of the store's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from store.canon import encode
from store.pattern_tables import CODES
from store.schema import PROFILES, TABLES
from store.writer import to_table

PerLayer = dict[str, Tensor]

_PROFILES = frozenset(column.name for column in PROFILES)
_CODED = frozenset(c.name for c in TABLES["pattern_inputs"].columns if c.type == CODES)


class HeadRows:
    """Collects one batch's measures block by block and turns them into tables.

    Rows are ordered by image, layer, head. Blocks may differ in their number of heads, and in the
    length of their hop profiles.
    """

    def __init__(self, model: str, images: Sequence[int]) -> None:
        self.model = model
        self.images = np.asarray(images)
        self.strength: list[PerLayer] = []
        self.scores: list[PerLayer] = []
        self.patterns: list[PerLayer] = []

    def add_strength(self, measures: PerLayer) -> None:
        """One block's strength measures, each image x head (x hop)."""
        self.strength.append({name: values.cpu() for name, values in measures.items()})

    def add_patterns(self, patterns: PerLayer) -> None:
        """One block's canonical patterns, each image x head (x share)."""
        self.patterns.append({name: values.cpu() for name, values in patterns.items()})

    def add_scores(self, measures: PerLayer) -> None:
        """One block's importance measures, each image x head."""
        self.scores.append({name: values.cpu() for name, values in measures.items()})

    def tables(self, ablation: str) -> dict[str, pa.Table]:
        """`head_scores` of this batch, and `head_strength` and `pattern_inputs` where there are
        strength measures and patterns."""
        grain = self._grain()
        rows = len(self.images) * sum(_heads(self.scores))
        found = {"head_scores": to_table("head_scores", {
            **grain, "ablation": [ablation] * rows, **_columns(self.scores)})}
        for name, layers in (("head_strength", self.strength), ("pattern_inputs", self.patterns)):
            if layers:
                found[name] = to_table(name, {**grain, **_columns(layers)})
        return found

    def _grain(self) -> dict[str, object]:
        heads = _heads(self.scores)
        for what, layers in (("strengths", self.strength), ("patterns", self.patterns)):
            if layers and _heads(layers) != heads:
                raise ValueError(f"heads of each layer: {heads} have scores, "
                                 f"{_heads(layers)} have {what}")
        layer = np.repeat(np.arange(len(heads)), heads)
        head = np.concatenate([np.arange(n) for n in heads])
        count = len(self.images)
        return {"model": [self.model] * (count * len(head)),
                "image": np.repeat(self.images, len(head)),
                "layer": np.tile(layer, count), "head": np.tile(head, count)}


def layer_rows(model: str, images: Sequence[int], layers: list[PerLayer]) -> pa.Table:
    """`layer_scores` of one batch, ordered by image and layer; each measure is one number for
    each image."""
    count = len(layers)
    by_head = [{name: values.cpu()[:, None] for name, values in layer.items()} for layer in layers]
    return to_table("layer_scores", {
        "model": [model] * (count * len(images)), "image": np.repeat(np.asarray(images), count),
        "layer": np.tile(np.arange(count), len(images)), **_columns(by_head)})


def _heads(layers: list[PerLayer]) -> list[int]:
    """How many heads each block has."""
    return [next(iter(layer.values())).shape[1] for layer in layers]


def _columns(layers: list[PerLayer]) -> dict[str, object]:
    return {name: _kind(name)(name, [layer[name] for layer in layers]) for name in layers[0]}


def _kind(name: str) -> Callable[[str, list[Tensor]], object]:
    return _lists if name in _PROFILES else _codes if name in _CODED else _column


def _column(name: str, layers: list[Tensor]) -> object:
    """Numbers, each image x head, in one column."""
    flat = _finite(torch.cat(layers, dim=1))
    if name == "flip":
        return pa.array(np.nan_to_num(flat) > 0.5, mask=np.isnan(flat))
    return flat


def _codes(name: str, layers: list[Tensor]) -> pa.Array:
    """Shares, each image x head x share, as lists of bytes; NULL where one is undefined."""
    shares = torch.cat(layers, dim=1).flatten(0, 1).double().numpy()
    undefined = np.isnan(shares).any(axis=1)
    ends = np.cumsum(np.where(undefined, 0, shares.shape[1]))
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], ends]), pa.int32()),
        pa.array(encode(shares[~undefined]).ravel()), mask=pa.array(undefined))


def _lists(name: str, layers: list[Tensor]) -> pa.Array:
    """Profiles, each image x head x hop, as lists of each layer's length; NULL where undefined
    throughout, with NULLs inside where in part."""
    images = len(layers[0])
    flat = _finite(torch.cat([layer.flatten(1) for layer in layers], dim=1))
    lengths = np.tile(np.concatenate([np.full(layer.shape[1], layer.shape[2])
                                      for layer in layers]), images)
    row = np.repeat(np.arange(len(lengths)), lengths)
    empty = np.bincount(row, ~np.isnan(flat), minlength=len(lengths)) == 0
    ends = np.cumsum(np.where(empty, 0, lengths))
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], ends]), pa.int32()),
        pa.array(flat[~empty[row]], from_pandas=True), mask=pa.array(empty))


def _finite(values: Tensor) -> np.ndarray:
    """In order, as the store's floats, NaN where infinite."""
    flat = values.flatten().double().numpy()
    return np.where(np.isfinite(flat), flat, np.nan).astype(np.float32)
