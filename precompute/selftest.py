"""Proofs on the user's own model, before anything is written: what the store will say is so.

Every check is a row of CHECKS. What the engines carry is compared with full forward passes under
plain hooks (`precompute.hooked`), and the measures with what they must add up to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from precompute.ablation import masked
from precompute.anatomy import Attention
from precompute.contest import (
    AGREES,
    CRASHES,
    Case,
    Trial,
    apart,
    choose,
    rounding_error,
    said,
    worst,
)
from precompute.hooked import Passage, Pixels, read
from precompute.models import Vit
from precompute.sweep import Engine, make_engine
from store.errors import ModelError

__all__ = ["CHECKS", "Check", "Verdict", "check", "choose_engine", "examine", "failures",
           "require", "rounding_error"]

ADDS_UP = 1e-5
"""For sums of softmax weights: some thousand float32 terms that are 1 together."""


@dataclass(frozen=True)
class Check:
    """The outcome of one proof. `worst`: the largest difference found, None where the check says
    nothing about this model or could not be carried out (then it has not passed)."""

    name: str
    worst: float | None
    allowed: float
    passed: bool
    note: str

    @property
    def state(self) -> str:
        if not self.passed:
            return "FAILED"
        return "n.a." if self.worst is None else "ok"


@dataclass(frozen=True)
class Verdict:
    """The engine for a model, why not a quicker one, and the checks with that engine."""

    engine: str
    passed_over: tuple[str, ...]
    checks: list[Check]


class SaysNothing(Exception):  # noqa: N818 - nothing is wrong
    """Why a check says nothing about a model."""


@dataclass(frozen=True)
class Ours:
    """A case and the engine to be checked."""

    case: Case
    engine_name: str

    @cached_property
    def engine(self) -> Engine:
        vit = self.case.vit
        return make_engine(self.engine_name, vit.model, vit.anatomy)

    @property
    def trial(self) -> Trial:
        return self.case.trial(self.engine_name)


@dataclass(frozen=True)
class Proof:
    """`find` returns the largest difference, or raises SaysNothing with the reason; `on` says
    what it was found on."""

    name: str
    proves: str
    allowed: float
    find: Callable[[Ours], float]
    on: Callable[[Ours], str] | None = None


def choose_engine(vit: Vit, pixels: Pixels) -> str:
    """The quickest engine that agrees with hooked passes on these images."""
    return choose(Case(vit, pixels))[0]


def check(vit: Vit, engine_name: str, pixels: Pixels) -> list[Check]:
    """Every check of CHECKS with this engine. Raises ModelError for a model that does not show
    its attention, or shows no softmax."""
    return _check(Case(vit, pixels), engine_name)


def examine(vit: Vit, pixels: Pixels) -> Verdict:
    """Both of the above, on the same hooked passes."""
    case = Case(vit, pixels)
    engine, passed_over = choose(case)
    return Verdict(engine, tuple(passed_over), _check(case, engine))


def failures(checks: Iterable[Check]) -> str:
    """Which checks failed, and by how much, in one line; empty if none did."""
    return "; ".join(
        f"{c.name} ({c.note})" if c.worst is None
        else f"{c.name} (off by {c.worst:.2g}, allowed {c.allowed:.0e})"
        for c in checks if not c.passed)


def require(checks: Sequence[Check]) -> None:
    """Raises ModelError, in one line, if a check failed."""
    failed = failures(checks)
    if failed:
        raise ModelError(f"the self-test failed: {failed}; --despite-selftest goes on regardless")


def _check(case: Case, engine_name: str) -> list[Check]:
    ours = Ours(case, engine_name)
    return [_outcome(proof, ours) for proof in CHECKS]


@torch.no_grad()
def _outcome(proof: Proof, ours: Ours) -> Check:
    try:
        found = proof.find(ours)
    except SaysNothing as reason:
        return Check(proof.name, None, proof.allowed, True, str(reason))
    except (*CRASHES, ModelError) as error:
        return Check(proof.name, None, proof.allowed, False, f"it does not run: {said(error)}")
    if found != found:
        return Check(proof.name, None, proof.allowed, False, "the difference is not a number")
    note = proof.proves if proof.on is None else f"{proof.proves} ({proof.on(ours)})"
    return Check(proof.name, found, proof.allowed, found <= proof.allowed, note)


def _rows(ours: Ours) -> float:
    return worst(ours.case.row_sums)


def _hops(ours: Ours) -> float:
    if not ours.case.hop_sums:
        raise SaysNothing("no layer has patches that ask all others: weight on padding and "
                            "across the seams of windows is in no hop")
    return worst(ours.case.hop_sums)


def _unchanged(ours: Ours) -> float:
    return ours.trial.unchanged


def _pruned(ours: Ours) -> float:
    return ours.trial.pruned


def _heads(ours: Ours) -> str:
    """A comparison of heads that do next to nothing would prove next to nothing."""
    layers = ", ".join(map(str, ours.case.evidence.layers))
    return (f"{len(ours.case.evidence.pruned)} heads of layers {layers}; "
            f"largest effect {ours.trial.effect:.2g}")


def _logits(ours: Ours) -> float:
    if ours.trial.logits is None:
        raise SaysNothing("the model has no classifier")
    return ours.trial.logits


def _two(ours: Ours) -> float:
    if ours.trial.gated is None:
        raise SaysNothing("the model has but one layer")
    return ours.trial.gated


def _mode_none(ours: Ours) -> float:
    return _under_mode(ours, "none", lambda heads: heads)


def _mode_head(ours: Ours) -> float:
    return _under_mode(ours, "head", torch.zeros_like)


def _under_mode(ours: Ours, mode: str, wanted: Callable[[Tensor], Tensor]) -> float:
    """Of the heads of every layer looked at, from what they are to be."""
    found = []
    for layer in ours.case.evidence.layers:
        call = ours.case.clean.calls[layer]
        heads = masked(ours.case.vit.anatomy.layers[layer], call, mode)
        assert heads is not None, "every layer has this mode"
        found.append((heads - wanted(call.heads)).abs().max().item())
    return worst(found)


def _adds_up(ours: Ours) -> float:
    return worst([_sum_apart(passage) for passage in ours.case.evidence.passages])


def _sum_apart(passage: Passage) -> float:
    """The sum of what each head adds alone against what the model's own attention put out; where
    heads share a projection with the MLP, against the projection without the MLP's part."""
    attention, dim = passage.attention, passage.attention.dim
    if getattr(attention.module, "gate", None) is not None:
        raise SaysNothing("the heads are multiplied by a gate before they are projected")
    heads = passage.site[..., :dim]
    weight, bias = attention.proj.weight[:, :dim], attention.proj.bias
    total = heads.new_zeros(()) if bias is None else bias
    shift = None if attention.site is attention.proj else getattr(attention.site, "bias", None)
    total = total if shift is None else total + F.linear(shift, weight)
    for head in range(attention.heads):
        alone = torch.zeros_like(heads)
        own = slice(head * attention.width, (head + 1) * attention.width)
        alone[..., own] = heads[..., own]
        total = total + F.linear(_frozen(attention, heads, alone), weight)
    if passage.site.shape[-1] > dim:
        return apart(total, F.linear(heads, weight, bias))
    return apart(total, passage.output if attention.ends_with_proj else passage.projected)


def _frozen(attention: Attention, heads: Tensor, part: Tensor) -> Tensor:
    """A part of the heads through the norm over all of them, its scale that of the whole."""
    norm: Any = attention.site
    if norm is attention.proj or isinstance(norm, nn.Identity):
        return part
    centred = isinstance(norm, nn.LayerNorm)
    if not centred and "rms" not in type(norm).__name__.lower():
        raise SaysNothing(f"the norm over the heads ({type(norm).__name__}) is not linear even "
                            "with its scale frozen, as far as we know")
    spread = heads.var(-1, unbiased=False, keepdim=True) if centred \
        else heads.square().mean(-1, keepdim=True)
    scaled = (part - part.mean(-1, keepdim=True) if centred else part) / (spread + norm.eps).sqrt()
    return scaled if norm.weight is None else scaled * norm.weight


def _last_layer(ours: Ours) -> float:
    """By the model itself under a hook, and by the engine."""
    case, vit = ours.case, ours.case.vit
    last = vit.anatomy.layers[-1]
    if not vit.anatomy.reads_class:
        raise SaysNothing("the classifier reads more than the class token of the last block")
    if last.geometry.class_query:
        raise SaysNothing("the last layer has the class token's row alone")
    if not last.geometry.class_token:
        raise SaysNothing("the last layer has no class token")
    heads = case.clean.calls[-1].heads
    changed = torch.zeros_like(heads)
    changed[:, :1] = heads[:, :1]
    found = ours.engine.carry(case.clean, vit.anatomy.depth - 1, changed[None]).features[0]
    hooked = _without_patch_rows(case)
    wanted = case.evidence.unpruned.embedding
    return worst([apart(read(vit, found).embedding, wanted), apart(hooked, wanted)])


def _without_patch_rows(case: Case) -> Float[Tensor, "image embedding"]:
    """The model's own embedding where nothing but the class row comes out of the last heads."""

    def keep_the_first(attention: Attention) -> Callable[[nn.Module, tuple], tuple]:
        def clear(_module: nn.Module, args: tuple) -> tuple:
            site = args[0].clone()
            site[..., 1:, :attention.dim] = 0
            return (site,)
        return clear

    vit = case.vit
    handles = [attention.site.register_forward_pre_hook(keep_the_first(attention))
               for attention in vit.anatomy.layers[-1].attentions]
    try:
        return read(vit, vit.model.forward_features(case.pixels)).embedding
    finally:
        for handle in handles:
            handle.remove()


CHECKS = (
    Proof("attention rows", "every row of every head's attention sums to 1", ADDS_UP, _rows),
    Proof("hop masses", "a head's weight on every hop and on prefix tokens sums to 1", ADDS_UP,
          _hops),
    Proof("no-op", "carrying unchanged heads gives the unpruned embedding", AGREES, _unchanged),
    Proof("pruned heads", "a pruned head has the embedding of a hooked forward pass", AGREES,
          _pruned, _heads),
    Proof("pruned logits", "and its logits", AGREES, _logits),
    Proof("two heads", "so have two heads of different layers, pruned at once", AGREES, _two),
    Proof("contributions", "what the heads add one by one is the attention's output", AGREES,
          _adds_up),
    Proof("mode none", "removing no part of the attention gives the heads bit for bit", 0.0,
          _mode_none),
    Proof("mode head", "removing all of it leaves nothing", 0.0, _mode_head),
    Proof("last layer", "its patch rows cannot change what a class-token classifier reads", AGREES,
          _last_layer),
)
"""A new check is one row."""


