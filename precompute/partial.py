"""The rows of `partial_pruning`: what is left of the prediction under every mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from precompute.importance import Outcome, embedding_l2, js_divergence, probability
from store.schema import MODES
from store.writer import to_table

Modes = dict[str, list[Outcome] | None]
"""For one layer: a mode's outcomes, heads in chunks; None where the layer lacks its token."""

MEASURES = {f.__name__: f for f in (probability, js_divergence, embedding_l2)}
TOP = 5


def partial_rows(model: str, images: Sequence[int], layers: list[Modes], heads: Sequence[int],
                 names: Sequence[str]) -> pa.Table:
    """One row per image, layer, head and mode, in that order. `names` are the classes'."""
    count, modes = len(images), len(MODES)
    layer = np.repeat(np.arange(len(heads)), heads)
    head = np.concatenate([np.arange(n) for n in heads])
    rows = count * len(head) * modes
    measured = {name: _column(name, layers, heads, count) for name in MEASURES}
    return to_table("partial_pruning", {
        "model": [model] * rows, "image": np.repeat(np.asarray(images), len(head) * modes),
        "layer": np.tile(np.repeat(layer, modes), count),
        "head": np.tile(np.repeat(head, modes), count),
        "mode": list(MODES) * (count * len(head)), **measured,
        "top5": _top(layers, heads, count, names)})


def _column(name: str, layers: list[Modes], heads: Sequence[int], images: int) -> np.ndarray:
    by_layer = [torch.stack([_of_mode(name, modes[mode], count, images) for mode in MODES], dim=-1)
                for modes, count in zip(layers, heads, strict=True)]
    flat = torch.cat(by_layer).transpose(0, 1).flatten().cpu().double().numpy()
    return np.where(np.isfinite(flat), flat, np.nan).astype(np.float32)


def _of_mode(name: str, outcomes: list[Outcome] | None, heads: int, images: int) -> Tensor:
    """A measure of a layer's heads under one mode, head x image; NaN where there is no such mode.
    """
    if outcomes is None:
        return torch.full((heads, images), torch.nan, dtype=torch.float64)
    return torch.cat([MEASURES[name](outcome).cpu().double() for outcome in outcomes])


def _top(layers: list[Modes], heads: Sequence[int], images: int, names: Sequence[str],
         ) -> list[list[dict] | None]:
    found: list[list[list[dict] | None]] = [[] for _ in range(images)]
    for modes, count in zip(layers, heads, strict=True):
        tops = {mode: _tops(outcomes, names) for mode, outcomes in modes.items()}
        for image in range(images):
            found[image] += [top[h][image] if (top := tops[mode]) else None
                             for h in range(count) for mode in MODES]
    return [row for rows in found for row in rows]


def _tops(outcomes: list[Outcome] | None, names: Sequence[str]) -> list[list[list[dict]]] | None:
    """The most probable classes by head and image; None without a classifier or the mode."""
    if outcomes is None or outcomes[0].logits is None:
        return None
    logits = torch.cat([outcome.logits for outcome in outcomes])  # type: ignore[misc]
    chances, classes = logits.double().softmax(-1).topk(min(TOP, logits.shape[-1]))
    return [[[{"class": c, "name": names[c], "probability": p} for c, p in zip(cs, ps, strict=True)]
             for cs, ps in zip(by_image_c, by_image_p, strict=True)]
            for by_image_c, by_image_p in zip(classes.tolist(), chances.tolist(), strict=True)]
