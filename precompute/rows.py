"""Tensors into columns: the one place where measures become rows of the store's tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from store.writer import to_table

PerLayer = dict[str, Tensor]


class HeadRows:
    """Collects one batch's measures block by block and turns them into two tables.

    Rows are ordered by image, layer, head. Models may have other numbers of heads in each block.
    """

    def __init__(self, model: str, images: Sequence[int]) -> None:
        self.model = model
        self.images = np.asarray(images)
        self.strength: list[PerLayer] = []
        self.scores: list[PerLayer] = []

    def add_strength(self, measures: PerLayer) -> None:
        """One block's strength measures, each image x head (x hop)."""
        self.strength.append({name: values.cpu() for name, values in measures.items()})

    def add_scores(self, measures: PerLayer) -> None:
        """One block's importance measures, each image x head."""
        self.scores.append({name: values.cpu() for name, values in measures.items()})

    def tables(self, ablation: str) -> dict[str, pa.Table]:
        """`head_scores` and `head_strength` of this batch."""
        grain = self._grain()
        rows = len(self.images) * sum(self._heads())
        return {
            "head_scores": to_table("head_scores", {
                **grain, "ablation": [ablation] * rows, **_columns(self.scores)}),
            "head_strength": to_table("head_strength", {
                **grain, **_columns(self.strength)}),
        }

    def _grain(self) -> dict[str, object]:
        heads = self._heads()
        layer = np.repeat(np.arange(len(heads)), heads)
        head = np.concatenate([np.arange(n) for n in heads])
        count = len(self.images)
        return {"model": [self.model] * (count * len(head)),
                "image": np.repeat(self.images, len(head)),
                "layer": np.tile(layer, count), "head": np.tile(head, count)}

    def _heads(self) -> list[int]:
        """How many heads each block has."""
        return [layer["hop_entropy"].shape[1] for layer in self.strength]


def _columns(layers: list[PerLayer]) -> dict[str, object]:
    return {name: _column(name, torch.cat([layer[name] for layer in layers], dim=1))
            for name in layers[0]}


def _column(name: str, values: Float[Tensor, "image head *hop"]) -> object:
    flat = values.flatten(0, 1).double().numpy()
    if flat.ndim == 2:
        return list(flat.astype(np.float32))
    flat = np.where(np.isfinite(flat), flat, np.nan)
    if name == "flip":
        return pa.array(np.nan_to_num(flat) > 0.5, mask=np.isnan(flat))
    return flat.astype(np.float32)


