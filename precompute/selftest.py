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

from precompute.ablation import masked, one_each, zero
from precompute.anatomy import Attention
from precompute.clean import CleanPass, Weights, clean_pass
from precompute.hooked import Evidence, Passage, Pixels, Readout, gather, read
from precompute.models import Vit
from precompute.rounded import Rounded
from precompute.strength import hop_mass, look, prefix_share
from precompute.sweep import Engine, make_engine
from store.errors import ModelError

AGREES = 1e-4
"""Relative difference of an embedding that float32 may make: orders of summation differ by about
1e-7 in each of some hundred matrix products, and 1e-5 was measured at most (docs/families.md)."""
ADDS_UP = 1e-5
"""For sums of softmax weights: some thousand float32 terms that are 1 together."""
ENGINES = ("fast", "tail", "hooks")
"""Quickest first."""
CRASHES = (RuntimeError, TypeError, ValueError, AttributeError)
"""What an engine, or a model of unusual make, may raise when its parts are run apart."""


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


@dataclass(frozen=True)
class Trial:
    """How far an engine is from hooked passes, relative to the embedding: with all heads as they
    were, with single heads cleared (also relative to the logits), with two of them (one by a
    gate). `effect`: the largest that a cleared head has."""

    unchanged: float
    pruned: float
    logits: float | None
    gated: float | None
    effect: float

    @property
    def worst(self) -> float:
        """NaN if anything is."""
        return float(torch.tensor([self.unchanged, self.pruned, self.gated or 0.0]).max())


class NotApplicable(Exception):
    """Why a check says nothing about a model."""


class Case:
    """One model on a few images, with what the checks share: worked out when first asked for."""

    def __init__(self, vit: Vit, pixels: Pixels) -> None:
        self.vit = vit
        self.evidence: Evidence = gather(vit, pixels)
        self.pixels = self.evidence.pixels
        self.row_sums: list[float] = []
        self.hop_sums: list[float] = []
        self._trials: dict[str, Trial] = {}
        self.clean: CleanPass = clean_pass(vit.model, vit.anatomy, self.pixels, self._watch,
                                           keep_inputs=True)

    def _watch(self, layer: int, attention: Weights) -> None:
        geometry = self.vit.anatomy.layers[layer].geometry
        self.row_sums.append(_far(attention.sum(-1), 1))
        if geometry.windows is None and not geometry.class_query:
            looking = look(attention, geometry)
            self.hop_sums.append(_far(hop_mass(looking).sum(-1) + prefix_share(looking), 1))

    def trial(self, name: str) -> Trial:
        """Of the engine of that name."""
        if name not in self._trials:
            self._trials[name] = _try(self, make_engine(name, self.vit.model, self.vit.anatomy))
        return self._trials[name]


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
    """`find` returns the largest difference, or raises NotApplicable with the reason; `on` says
    what it was found on."""

    name: str
    proves: str
    allowed: float
    find: Callable[[Ours], float]
    on: Callable[[Ours], str] | None = None


def choose_engine(vit: Vit, pixels: Pixels) -> str:
    """The quickest engine that agrees with hooked passes on these images."""
    return _choose(Case(vit, pixels))[0]


def check(vit: Vit, engine_name: str, pixels: Pixels) -> list[Check]:
    """Every check of CHECKS with this engine. Raises ModelError for a model that does not show
    its attention, or shows no softmax."""
    return _check(Case(vit, pixels), engine_name)


def examine(vit: Vit, pixels: Pixels) -> Verdict:
    """Both of the above, on the same hooked passes."""
    case = Case(vit, pixels)
    engine, passed_over = _choose(case)
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


def rounding_error(vit: Vit, engine_name: str, pixels: Pixels) -> float:
    """Largest relative difference that bfloat16 makes to a pruned embedding, over some heads."""
    case = Case(vit, pixels)
    exact = make_engine(engine_name, vit.model, vit.anatomy)
    rounded = Rounded(engine_name, vit.model, vit.anatomy)
    return max(_apart(read(vit, of_rounded).embedding, read(vit, of_exact).embedding)
               for layer in case.evidence.layers
               for of_rounded, of_exact in zip(_carried(case, rounded, layer)[1:],
                                               _carried(case, exact, layer)[1:], strict=True))


def _choose(case: Case) -> tuple[str, list[str]]:
    passed_over = []
    for name in ENGINES:
        reason = _against(case, name)
        if reason is None:
            return name, passed_over
        passed_over.append(f"{name}: {reason}")
    return ENGINES[-1], passed_over


def _against(case: Case, name: str) -> str | None:
    """Why this engine cannot be taken."""
    if name == "fast" and not case.vit.anatomy.plain:
        return "its blocks are not timm's plain pre-norm blocks"
    try:
        worst = case.trial(name).worst
    except CRASHES as error:
        return f"it does not run ({_said(error)})"
    return None if worst <= AGREES else \
        f"its embeddings are {worst:.1g} from those of hooked passes, allowed {AGREES:.0e}"


def _try(case: Case, engine: Engine) -> Trial:
    evidence, vit = case.evidence, case.vit
    wanted = evidence.unpruned
    unchanged, pruned, logits, effects = [], [], [], []
    for layer, heads in evidence.layers.items():
        first, *others = (read(vit, features) for features in _carried(case, engine, layer))
        unchanged.append(_apart(first.embedding, wanted.embedding))
        for head, found in zip(heads, others, strict=True):
            hooked = evidence.pruned[layer, head]
            pruned.append(_apart(found.embedding, hooked.embedding))
            effects.append(_apart(hooked.embedding, wanted.embedding))
            if found.logits is not None and hooked.logits is not None:
                logits.append(_apart(found.logits, hooked.logits))
    return Trial(_worst(unchanged), _worst(pruned), _worst(logits) if logits else None,
                 _gated(case, engine), _worst(effects))


def _carried(case: Case, engine: Engine, layer: int) -> Tensor:
    """The features for a layer's heads as they were, and without each one looked at."""
    heads = case.clean.calls[layer].heads
    cleared = [one_each(heads, zero(heads), case.vit.anatomy.layers[layer], range(h, h + 1))
               for h in case.evidence.layers[layer]]
    return engine.carry(case.clean, layer, torch.cat([heads[None], *cleared])).features


def _gated(case: Case, engine: Engine) -> float | None:
    """Two heads at once: one cleared, one of a later layer multiplied by 0."""
    if case.evidence.both is None:
        return None
    (layer, head), (later, closed) = case.evidence.two
    heads, anatomy = case.clean.calls[layer].heads, case.vit.anatomy
    gate = heads.new_ones(1, anatomy.heads[later])
    gate[:, closed] = 0
    cleared = one_each(heads, zero(heads), anatomy.layers[layer], range(head, head + 1))
    found: Readout = read(case.vit, engine.carry(case.clean, layer, cleared,
                                                 {later: gate}).features[0])
    return _apart(found.embedding, case.evidence.both.embedding)


def _check(case: Case, engine_name: str) -> list[Check]:
    ours = Ours(case, engine_name)
    return [_outcome(proof, ours) for proof in CHECKS]


@torch.no_grad()
def _outcome(proof: Proof, ours: Ours) -> Check:
    try:
        worst = proof.find(ours)
    except NotApplicable as reason:
        return Check(proof.name, None, proof.allowed, True, str(reason))
    except (*CRASHES, ModelError) as error:
        return Check(proof.name, None, proof.allowed, False, f"it does not run: {_said(error)}")
    if worst != worst:
        return Check(proof.name, None, proof.allowed, False, "the difference is not a number")
    note = proof.proves if proof.on is None else f"{proof.proves} ({proof.on(ours)})"
    return Check(proof.name, worst, proof.allowed, worst <= proof.allowed, note)


def _rows(ours: Ours) -> float:
    return _worst(ours.case.row_sums)


def _hops(ours: Ours) -> float:
    if not ours.case.hop_sums:
        raise NotApplicable("no layer has patches that ask all others: weight on padding and "
                            "across the seams of windows is in no hop")
    return _worst(ours.case.hop_sums)


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
        raise NotApplicable("the model has no classifier")
    return ours.trial.logits


def _two(ours: Ours) -> float:
    if ours.trial.gated is None:
        raise NotApplicable("the model has but one layer")
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
    return _worst(found)


def _adds_up(ours: Ours) -> float:
    return _worst([_sum_apart(passage) for passage in ours.case.evidence.passages])


def _sum_apart(passage: Passage) -> float:
    """The sum of what each head adds alone against what the model's own attention put out; where
    heads share a projection with the MLP, against the projection without the MLP's part."""
    attention, dim = passage.attention, passage.attention.dim
    if getattr(attention.module, "gate", None) is not None:
        raise NotApplicable("the heads are multiplied by a gate before they are projected")
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
        return _apart(total, F.linear(heads, weight, bias))
    return _apart(total, passage.output if attention.ends_with_proj else passage.projected)


def _frozen(attention: Attention, heads: Tensor, part: Tensor) -> Tensor:
    """A part of the heads through the norm over all of them, its scale that of the whole."""
    norm: Any = attention.site
    if norm is attention.proj or isinstance(norm, nn.Identity):
        return part
    centred = isinstance(norm, nn.LayerNorm)
    if not centred and "rms" not in type(norm).__name__.lower():
        raise NotApplicable(f"the norm over the heads ({type(norm).__name__}) is not linear even "
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
        raise NotApplicable("the classifier reads more than the class token of the last block")
    if last.geometry.class_query:
        raise NotApplicable("the last layer has the class token's row alone")
    if not last.geometry.class_token:
        raise NotApplicable("the last layer has no class token")
    heads = case.clean.calls[-1].heads
    changed = torch.zeros_like(heads)
    changed[:, :1] = heads[:, :1]
    found = ours.engine.carry(case.clean, vit.anatomy.depth - 1, changed[None]).features[0]
    hooked = _without_patch_rows(case)
    wanted = case.evidence.unpruned.embedding
    return _worst([_apart(read(vit, found).embedding, wanted), _apart(hooked, wanted)])


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


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Largest relative difference of an image, over all that there is of it; 0 where both are 0."""
    images = len(wanted)
    off = torch.linalg.vector_norm((found - wanted).reshape(images, -1).double(), dim=-1)
    size = torch.linalg.vector_norm(wanted.reshape(images, -1).double(), dim=-1)
    return (off / size.clamp_min(torch.finfo(wanted.dtype).tiny)).max().item()


def _far(values: Tensor, wanted: float) -> float:
    return (values - wanted).abs().max().item()


def _worst(values: Sequence[float]) -> float:
    """NaN if any is."""
    return torch.tensor(values, dtype=torch.float64).max().item()


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
