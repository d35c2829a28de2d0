"""The head stage: one batch of images through the clean pass, the sweep and every measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from precompute.ablation import ABLATIONS
from precompute.batches import Batch
from precompute.clean import CleanPass, clean_pass
from precompute.importance import IMPORTANCE, Clean, Outcome
from precompute.models import Vit
from precompute.readout import Classifier, direct_logits, embeddings, logit_directions
from precompute.rows import HeadRows
from precompute.strength import STRENGTH, confidence, look
from precompute.sweep import Engine, Pruned


@dataclass(frozen=True)
class Subject:
    """A model with what its head stage needs: its name, engine, classifier and labels' classes."""

    name: str
    vit: Vit
    engine: Engine
    classifier: Classifier
    class_of: Mapping[str, int]

    def classes(self, labels: list[str | None]) -> Int[Tensor, image]:
        """Labels as classes of the classifier; -1 for none."""
        return torch.tensor([-1 if label is None else self.class_of.get(label, -1)
                             for label in labels], device=self.vit.device)


@torch.no_grad()
def measure_heads(subject: Subject, batch: Batch, ablation: str = "zero") -> dict[str, pa.Table]:
    """The rows of `head_scores` and `head_strength` for one batch of images."""
    vit = subject.vit
    rows = HeadRows(subject.name, batch.images)
    sure: list[Tensor] = []

    def watch(_layer: int, attention: Tensor) -> None:
        looking = look(attention, vit.anatomy.geometry)
        rows.add_strength({name: measure(looking) for name, measure in STRENGTH.items()})
        sure.append(confidence(looking))

    clean = clean_pass(vit.model, vit.anatomy, batch.pixels, watch)
    unpruned = _Unpruned(subject, batch, clean)
    for pruned in subject.engine(vit.model, vit.anatomy, batch.pixels, clean, ABLATIONS[ablation]):
        outcome = unpruned.beside(pruned)
        rows.add_scores({
            **{name: measure(outcome).T for name, measure in IMPORTANCE.items()},
            "confidence": sure[pruned.layer],
            "direct_logit": unpruned.direct(pruned.layer)})
    return rows.tables(ablation)


class _Unpruned:
    """The clean outcome of a batch, ready to be set beside pruned ones."""

    def __init__(self, subject: Subject, batch: Batch, clean: CleanPass) -> None:
        self.subject, self.clean = subject, clean
        self.images = torch.tensor(batch.images)
        self.labels = subject.classes(batch.labels)
        features = clean.features[None]
        self.embedding = embeddings(subject.vit.model, features)[0]
        logits = subject.classifier.logits(features, self.embedding[None], self.images)
        self.logits = None if logits is None else logits[0]
        self.directions = None if self.logits is None else logit_directions(
            subject.vit.model, subject.vit.anatomy, clean,
            subject.classifier.rows(self.logits.argmax(-1), self.images))

    def beside(self, pruned: Pruned) -> Outcome:
        vit = self.subject.vit
        embedding = embeddings(vit.model, pruned.features)
        block_output = self.clean.calls[pruned.layer].output
        return Outcome(
            Clean(self.embedding, self.logits, self.labels, block_output), embedding,
            self.subject.classifier.logits(pruned.features, embedding, self.images),
            pruned.block_output, vit.anatomy.geometry.class_token, vit.anatomy.geometry.prefix)

    def direct(self, layer: int) -> Tensor:
        found = direct_logits(self.subject.vit.anatomy, self.clean, layer, self.directions)
        if found is not None:
            return found
        heads = self.subject.vit.anatomy.heads[layer]
        return torch.full((len(self.images), heads), torch.nan)
