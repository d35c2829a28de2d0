"""Attention matrices kept of some images, a byte a weight; `store.kept` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from precompute.batches import Batch
from precompute.clean import Weights, clean_pass
from precompute.subject import Subject
from store.kept import STEPS
from store.writer import to_table


@dataclass(frozen=True)
class Kept:
    """One block's attention as bytes c: weight = top (c / STEPS)^2, `tops` the rows' largest
    weights, `errors` how far off the worst weight of a head is."""

    codes: UInt8[Tensor, "image head window query key"]
    tops: Float[Tensor, "image head window query"]
    errors: Float[Tensor, "image head"]


def compress(attention: Weights) -> Kept:
    """Of steps that grow with the square root of a weight, so that small ones keep their digits;
    no weight is off by more than its row's largest / STEPS."""
    weights = attention.movedim(2, 1)
    tops = weights.amax(-1)
    codes = (weights / tops[..., None]).sqrt_().mul_(STEPS).round_()
    again = (codes / STEPS).square_() * tops[..., None]
    errors = (again - weights).abs().flatten(2).amax(-1)
    return Kept(codes.to(torch.uint8).cpu(), tops.cpu(), errors.cpu())


@torch.no_grad()
def keep_attention(subject: Subject, batch: Batch) -> dict[str, pa.Table]:
    """The rows of `attention` for one batch of images."""
    vit, kept = subject.vit, list[Kept]()
    clean_pass(vit.model, vit.anatomy, batch.pixels,
               lambda _layer, attention: kept.append(compress(attention)))
    return {"attention": attention_rows(subject.name, batch.images, kept)}


def attention_rows(model: str, images: Sequence[int], kept: Sequence[Kept]) -> pa.Table:
    """Ordered by image, layer, head; `kept` are the model's layers."""
    rows = [_row(layer, i, head) | {"model": model, "image": image, "layer": number, "head": head}
            for i, image in enumerate(images) for number, layer in enumerate(kept)
            for head in range(layer.codes.shape[1])]
    return to_table("attention", {name: [row[name] for row in rows] for name in rows[0]})


def _row(layer: Kept, image: int, head: int) -> dict[str, object]:
    windows, queries, keys = layer.codes.shape[2:]
    return {"windows": windows, "queries": queries, "keys": keys,
            "tops": layer.tops[image, head].flatten().numpy().astype(np.float32),
            "weights": layer.codes[image, head].numpy().tobytes(),
            "error": layer.errors[image, head].item()}
