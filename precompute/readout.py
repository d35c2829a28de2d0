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

from precompute.anatomy import Model
from precompute.sweep import embed

Features = Float[Tensor, "variant image *rest dim"]
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
        flat = self.model.forward_head(features.flatten(0, 1))
        return flat.unflatten(0, features.shape[:2])

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
    return embed(model, features.flatten(0, 1)).unflatten(0, features.shape[:2])
