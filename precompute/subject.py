"""A model under study, and the outcome of a batch: unpruned, and beside it whatever is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from precompute.ablation import Variants
from precompute.batches import Batch
from precompute.clean import CleanPass
from precompute.importance import Clean, Outcome
from precompute.models import Vit
from precompute.readout import Classifier, embeddings
from precompute.reference import Reference
from precompute.rounded import Rounded
from precompute.sweep import Engine, Gates, make_engine

FLOAT32, BFLOAT16 = "float32", "bfloat16"


@dataclass(frozen=True)
class Subject:
    """A model with what its measures need: its name, engine, classifier, its labels' classes, and
    what its heads put out on other images (only for ablations that ask for it)."""

    name: str
    vit: Vit
    engine: str
    classifier: Classifier
    class_of: Mapping[str, int]
    reference: Reference | None = None
    precision: str = FLOAT32

    @cached_property
    def carrier(self) -> Engine:
        """The engine itself, its weights packed."""
        if self.precision == BFLOAT16:
            return Rounded(self.engine, self.vit.model, self.vit.anatomy)
        return make_engine(self.engine, self.vit.model, self.vit.anatomy)

    def classes(self, labels: list[str | None]) -> Int[Tensor, image]:
        """Labels as classes of the classifier; -1 for none."""
        return torch.tensor([-1 if label is None else self.class_of.get(label, -1)
                             for label in labels], device=self.vit.device)


class Unpruned:
    """The clean outcome of a batch, ready to be set beside pruned ones."""

    def __init__(self, subject: Subject, batch: Batch, clean: CleanPass) -> None:
        self.subject, self.clean = subject, clean
        self.images = torch.tensor(batch.images)
        self.labels = subject.classes(batch.labels)
        embedding, logits = self._read(clean.features[None])
        self.embedding, self.logits = embedding[0], None if logits is None else logits[0]
        self._before: dict[int, Clean] = {}

    def carry(self, layer: int, heads: Variants, gates: Gates | None = None) -> Outcome:
        """The outcome of changed heads of one layer (and gates on later ones)."""
        found = self.subject.carrier.carry(self.clean, layer, heads, gates)
        embedding, logits = self._read(found.features)
        geometry = self.subject.vit.anatomy.layers[layer].geometry
        return Outcome(self._compared_with(layer), embedding, logits, found.block_output,
                       geometry.class_token, geometry.prefix)

    def _compared_with(self, layer: int) -> Clean:
        """The clean outcome; in rounded arithmetic that of unchanged heads of the same layer, so
        that rounding does not count as an effect."""
        if layer not in self._before:
            call = self.clean.calls[layer]
            exact = not isinstance(self.subject.carrier, Rounded)
            self._before[layer] = \
                Clean(self.embedding, self.logits, self.labels, call.tokens) if exact \
                else self._carried_unchanged(layer)
        return self._before[layer]

    def _carried_unchanged(self, layer: int) -> Clean:
        found = self.subject.carrier.carry(self.clean, layer, self.clean.calls[layer].heads[None])
        embedding, logits = self._read(found.features)
        return Clean(embedding[0], None if logits is None else logits[0], self.labels,
                     found.block_output[0])

    def _read(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        embedding = embeddings(self.subject.vit.model, features)
        return embedding, self.subject.classifier.logits(features, embedding, self.images)
