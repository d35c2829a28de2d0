"""A linear probe for models without a classifier: cross-fitted, so that it is honest.

With a few hundred images and as many dimensions, a logistic regression knows its own training
images by heart. So there are FOLDS of them, each fitted without a fold of the images, and every
image is judged by the one that has not seen it: its accuracy is a held-out accuracy, and so is
every probability drop.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from precompute.readout import Classes, Embedding, Features, Images, Logits

FOLDS = 5
STRENGTH_OF_PRIOR = 0.01
"""scikit-learn's C on standardised embeddings."""


@dataclass(frozen=True)
class Probe:
    """`weight[f]`, `bias[f]`: the regression that has not seen fold f. `folds[i]` is the fold of
    image `images[i]`; an image that came later belongs to fold `image % FOLDS`."""

    weight: Float[Tensor, "fold class embedding"]
    bias: Float[Tensor, "fold class"]
    names: tuple[str, ...]
    images: Int[Tensor, fitted]
    folds: Int[Tensor, fitted]
    kind: str = "probe"

    def logits(self, features: Features, embedding: Embedding, images: Images) -> Logits | None:
        return self.judge(embedding, images)

    def judge(self, embedding: Embedding, images: Images) -> Logits:
        """Logits of the images with these numbers, each by a regression that has not seen it."""
        fold = self.fold_of(images)
        return torch.einsum("...ie,ice->...ic", embedding, self.weight[fold]) + self.bias[fold]

    def rows(self, classes: Classes, images: Images) -> Float[Tensor, "image embedding"] | None:
        return self.weight[self.fold_of(images), classes]

    def fold_of(self, images: Images) -> Int[Tensor, image]:
        """The fold whose regression has not seen each of these images."""
        known = dict(zip(self.images.tolist(), self.folds.tolist(), strict=True))
        count = len(self.weight)
        return torch.tensor([known.get(i, i % count) for i in images.tolist()],
                            device=self.weight.device)

    def to(self, device: torch.device) -> Probe:
        return Probe(self.weight.to(device), self.bias.to(device), self.names, self.images,
                     self.folds)


def fit_probe(embeddings: Float[np.ndarray, "image embedding"], images: Sequence[int],
              labels: Sequence[str | None]) -> Probe | None:
    """Fit on the labelled images. None where fewer than two labels have two images or more."""
    counts = Counter(label for label in labels if label is not None)
    names = tuple(sorted(label for label, n in counts.items() if n >= 2))
    if len(names) < 2:
        return None
    chosen = [i for i, label in enumerate(labels) if label in names]
    x = np.asarray(embeddings, dtype=np.float64)[chosen]
    y = np.array([names.index(str(labels[i])) for i in chosen])
    folds = np.zeros(len(chosen), dtype=np.int64)
    count = min(FOLDS, max(counts[name] for name in names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
        for fold, (_, held_out) in enumerate(StratifiedKFold(count).split(x, y)):
            folds[held_out] = fold
    fits = [_regression(x[folds != f], y[folds != f], len(names)) for f in range(count)]
    weight, bias = (torch.tensor(np.stack(part), dtype=torch.float32)
                    for part in zip(*fits, strict=True))
    return Probe(weight, bias, names, torch.tensor([images[i] for i in chosen]),
                 torch.tensor(folds))


def _regression(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases on raw embeddings, one row a class; standardising is folded in."""
    centre, scale = x.mean(0), x.std(0)
    scale[scale < 1e-8] = 1
    model = LogisticRegression(C=STRENGTH_OF_PRIOR, max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((x - centre) / scale, y)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2 and len(weight) == 1:  # scikit-learn keeps one row of two
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight, full_bias = np.zeros((classes, x.shape[1])), np.full(classes, -30.0)
    full_weight[model.classes_] = weight / scale
    full_bias[model.classes_] = bias - (weight / scale) @ centre
    return full_weight, full_bias


def to_bytes(probe: Probe) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=probe.weight.numpy(), bias=probe.bias.numpy(),
             names=np.array(probe.names), images=probe.images.numpy(), folds=probe.folds.numpy())
    return buffer.getvalue()


def from_bytes(content: bytes) -> Probe:
    with np.load(io.BytesIO(content), allow_pickle=False) as saved:
        return Probe(torch.tensor(saved["weight"]), torch.tensor(saved["bias"]),
                     tuple(str(n) for n in saved["names"]), torch.tensor(saved["images"]),
                     torch.tensor(saved["folds"]))
