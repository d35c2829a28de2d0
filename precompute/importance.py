"""Which heads matter: pure functions of the clean outcome and the pruned ones.

Each entry of IMPORTANCE is one column of `head_scores`; formulas, units and sources stand in
`store.schema`. Undefined values are NaN here and NULL in the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

PerHead = Float[Tensor, "head image"]


@dataclass(frozen=True)
class Clean:
    """The unpruned model on a batch. `labels` are classes, -1 where an image has none (or there is
    no classifier, and then `logits` is None too). `block_output` is the pruned block's."""

    embedding: Float[Tensor, "image embedding"]
    logits: Float[Tensor, "image class"] | None
    labels: Int[Tensor, image]
    block_output: Float[Tensor, "image token dim"]


@dataclass(frozen=True)
class Outcome:
    """Every head of one block pruned, beside the clean outcome."""

    clean: Clean
    embedding: Float[Tensor, "head image embedding"]
    logits: Float[Tensor, "head image class"] | None
    block_output: Float[Tensor, "head image token dim"]
    class_token: bool
    prefix: int


def probability(outcome: Outcome) -> PerHead:
    return _of_class(outcome, _top(outcome), torch.exp)


def probability_drop(outcome: Outcome) -> PerHead:
    top = _top(outcome)
    return _clean_of_class(outcome, top, torch.exp) - _of_class(outcome, top, torch.exp)


def true_probability_drop(outcome: Outcome) -> PerHead:
    labels = outcome.clean.labels
    return _clean_of_class(outcome, labels, torch.exp) - _of_class(outcome, labels, torch.exp)


def loss_increase(outcome: Outcome) -> PerHead:
    labels = outcome.clean.labels
    return _clean_of_class(outcome, labels, _same) - _of_class(outcome, labels, _same)


def margin_drop(outcome: Outcome) -> PerHead:
    if outcome.logits is None or outcome.clean.logits is None or outcome.logits.shape[-1] < 2:
        return _undefined(outcome)
    first, second = outcome.clean.logits.topk(2).indices.unbind(-1)
    before = _pick(outcome.clean.logits, first) - _pick(outcome.clean.logits, second)
    return before - (_pick(outcome.logits, first) - _pick(outcome.logits, second))


def js_divergence(outcome: Outcome) -> PerHead:
    if outcome.logits is None or outcome.clean.logits is None:
        return _undefined(outcome)
    p, q = _log_p(outcome.clean.logits).exp(), _log_p(outcome.logits).exp()
    entropy = torch.special.entr
    middle = entropy((p + q) / 2).sum(-1)
    return (middle - (entropy(p).sum(-1) + entropy(q).sum(-1)) / 2).clamp_min(0)


def flip(outcome: Outcome) -> PerHead:
    if outcome.logits is None:
        return _undefined(outcome)
    return (outcome.logits.argmax(-1) != _top(outcome)).double()


def embedding_cosine(outcome: Outcome) -> PerHead:
    cosine = torch.nn.functional.cosine_similarity(
        outcome.embedding.double(), outcome.clean.embedding.double(), dim=-1)
    return 1 - cosine


def embedding_l2(outcome: Outcome) -> PerHead:
    return _relative(outcome.embedding, outcome.clean.embedding)


def layer_cls_l2(outcome: Outcome) -> PerHead:
    if not outcome.class_token:
        return _undefined(outcome)
    return _relative(outcome.block_output[..., 0, :], outcome.clean.block_output[..., 0, :])


def layer_patch_l2(outcome: Outcome) -> PerHead:
    first = outcome.prefix
    return _relative(outcome.block_output[..., first:, :],
                     outcome.clean.block_output[..., first:, :]).mean(-1)


IMPORTANCE: dict[str, Callable[[Outcome], PerHead]] = {f.__name__: f for f in (
    probability, probability_drop, true_probability_drop, loss_increase, margin_drop,
    js_divergence, flip, embedding_cosine, embedding_l2, layer_cls_l2, layer_patch_l2)}


def _relative(found: Tensor, clean: Tensor) -> Tensor:
    """Relative L2 change over the last axis; NaN where the clean vector is 0."""
    norm = torch.linalg.vector_norm
    return norm(found - clean, dim=-1).double() / norm(clean, dim=-1).double()


def _undefined(outcome: Outcome) -> PerHead:
    return torch.full(outcome.embedding.shape[:2], torch.nan, dtype=torch.float64,
                      device=outcome.embedding.device)


def _same(values: Tensor) -> Tensor:
    return values


def _log_p(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(-1)


def _top(outcome: Outcome) -> Int[Tensor, image]:
    """The unpruned model's class for each image, -1 without a classifier."""
    logits = outcome.clean.logits
    return torch.full_like(outcome.clean.labels, -1) if logits is None else logits.argmax(-1)


def _of_class(outcome: Outcome, classes: Int[Tensor, image],
              read: Callable[[Tensor], Tensor]) -> PerHead:
    """`read` of the pruned log-probability of each image's class; NaN for class -1."""
    if outcome.logits is None:
        return _undefined(outcome)
    return _known(read(_pick(_log_p(outcome.logits), classes)), classes)


def _clean_of_class(outcome: Outcome, classes: Int[Tensor, image],
                    read: Callable[[Tensor], Tensor]) -> PerHead:
    """The same of the unpruned model, for every head alike."""
    if outcome.clean.logits is None:
        return _undefined(outcome)
    one = _known(read(_pick(_log_p(outcome.clean.logits), classes)), classes)
    return one.expand(outcome.embedding.shape[0], -1)


def _pick(values: Float[Tensor, "*head image class"], classes: Int[Tensor, image]) -> Tensor:
    index = classes.clamp_min(0).expand(values.shape[:-1])
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def _known(values: Tensor, classes: Int[Tensor, image]) -> Tensor:
    return torch.where(classes >= 0, values, torch.nan)
