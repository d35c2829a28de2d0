"""From features to embedding and logits, and back: what the classifier reads and how.

A classifier is the model's own, a cross-fitted linear probe, or none; all three answer `logits`
and `rows`, so the measures do not ask which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from precompute.anatomy import Anatomy, Model
from precompute.clean import CleanPass
from precompute.sweep import embed

Features = Float[Tensor, "*variant image token dim"]
Embedding = Float[Tensor, "*variant image embedding"]
Logits = Float[Tensor, "*variant image class"]
Classes = Int[Tensor, "image"]
Images = Int[Tensor, "image"]


@runtime_checkable
class Classifier(Protocol):
    """`kind` is what `models.classifier` says."""

    @property
    def kind(self) -> str: ...

    def logits(self, features: Features, embedding: Embedding, images: Images) -> Logits | None:
        """Logits of the images with these numbers."""

    def rows(self, classes: Classes, images: Images) -> Float[Tensor, "image embedding"] | None:
        """The weights that make the logit of each image's class of its embedding, if linear."""


@dataclass(frozen=True)
class Native:
    """The model's own classifier."""

    model: Model
    kind: str = "native"

    def logits(self, features: Features, embedding: Embedding, images: Images) -> Logits | None:
        flat = self.model.forward_head(features.flatten(0, -3))
        return flat.unflatten(0, features.shape[:-2])

    def rows(self, classes: Classes, images: Images) -> Float[Tensor, "image embedding"] | None:
        head = getattr(self.model, "head", None)
        return head.weight[classes] if type(head) is nn.Linear else None


@dataclass(frozen=True)
class Nothing:
    """No classifier: measures that need one are NULL."""

    kind: str = "none"

    def logits(self, features: Features, embedding: Embedding, images: Images) -> Logits | None:
        return None

    def rows(self, classes: Classes, images: Images) -> Float[Tensor, "image embedding"] | None:
        return None


@torch.no_grad()
def embeddings(model: Model, features: Features) -> Embedding:
    """What the classifier reads, for any number of variants."""
    return embed(model, features.flatten(0, -3)).unflatten(0, features.shape[:-2])


@torch.no_grad()
def logit_directions(model: Model, anatomy: Anatomy, clean: CleanPass,
                     rows: Float[Tensor, "image embedding"] | None,
                     ) -> Float[Tensor, "image token dim"] | None:
    """The linear part of the logit as a function of the tokens after the last block, with the
    scale of the final norm frozen at the clean pass: logit = sum over tokens and dims + constant.

    None where the readout is not that: other pooling than the class token or the patches' mean,
    other norms than LayerNorm, a head that is not linear.
    """
    pooling = getattr(model, "global_pool", None)
    norms = (model.norm, getattr(model, "fc_norm", nn.Identity()))
    known = all(type(n) is nn.Identity or isinstance(n, nn.LayerNorm) for n in norms)
    plain_pool = getattr(model, "attn_pool", None) is None and pooling in ("token", "avg")
    distilled = hasattr(model, "dist_token")
    if rows is None or not known or not plain_pool or distilled:
        return None
    tokens = clean.calls[-1].output
    weights = tokens.new_zeros(tokens.shape[1])
    if pooling == "token":
        weights[0] = 1
    else:
        first = 0 if getattr(model, "pool_include_prefix", False) else anatomy.geometry.prefix
        weights[first:] = 1 / (tokens.shape[1] - first)
    pooled = torch.einsum("t,bte->be", weights, model.norm(tokens))
    outer = _through_norm(norms[1], pooled, rows)
    spread = weights[None, :, None] * outer[:, None]
    return _through_norm(norms[0], tokens, spread)


def _through_norm(norm: nn.Module, inputs: Float[Tensor, "*rest dim"],
                  direction: Float[Tensor, "*rest dim"]) -> Float[Tensor, "*rest dim"]:
    """Pull a direction back through a LayerNorm whose scale is frozen at these inputs."""
    if not isinstance(norm, nn.LayerNorm):
        return direction
    scaled = direction * norm.weight if norm.weight is not None else direction
    scale = (inputs.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    return (scaled - scaled.mean(-1, keepdim=True)) / scale


@torch.no_grad()
def direct_logits(anatomy: Anatomy, clean: CleanPass, layer: int,
                  directions: Float[Tensor, "image token dim"] | None,
                  ) -> Float[Tensor, "image head"] | None:
    """Each head's own addition to the logit; None where it is not linear (see above), or where
    the block scales or norms its heads' sum in a way we do not know."""
    block = anatomy.blocks[layer]
    if directions is None or not anatomy.plain or \
            type(block.attn.norm) is not nn.Identity:
        return None
    scale = getattr(block.ls1, "gamma", None)
    scaled = directions if scale is None else directions * scale
    heads = clean.calls[layer].heads
    return ((scaled @ block.attn.proj.weight) * heads).unflatten(
        -1, (anatomy.heads[layer], -1)).sum((1, 3))
