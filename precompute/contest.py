"""The engines on trial: what each carries, against full forward passes under plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precompute.ablation import one_each, zero
from precompute.clean import CleanPass, Weights, clean_pass
from precompute.hooked import Evidence, Pixels, Readout, gather, read
from precompute.models import Vit
from precompute.rounded import Rounded
from precompute.strength import hop_mass, look, prefix_share
from precompute.sweep import Engine, make_engine

AGREES = 1e-4
"""Relative difference of an embedding that float32 may make. Orders of summation differ, by about
1e-7 in each of some hundred matrix products; 1e-6 was measured on ViT-L, and a model of another
make or a GPU has room. Heads have effects of 1e-3 to 1 on this scale."""
ENGINES = ("fast", "tail", "hooks")
"""Quickest first."""
CRASHES = (RuntimeError, TypeError, ValueError, AttributeError)
"""What an engine, or a model of unusual make, may raise when its parts are run apart."""


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
        self.row_sums.append(far(attention.sum(-1), 1.0))
        if geometry.windows is None and not geometry.class_query:
            looking = look(attention, geometry)
            self.hop_sums.append(far(hop_mass(looking).sum(-1) + prefix_share(looking), 1.0))

    def trial(self, name: str) -> Trial:
        """Of the engine of that name."""
        if name not in self._trials:
            self._trials[name] = _try(self, make_engine(name, self.vit.model, self.vit.anatomy))
        return self._trials[name]


def choose(case: Case) -> tuple[str, list[str]]:
    """The quickest engine that agrees with hooked passes, and why not the quicker ones."""
    passed_over: list[str] = []
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
        off = case.trial(name).worst
    except CRASHES as error:
        return f"it does not run ({said(error)})"
    return None if off <= AGREES else \
        f"its embeddings are {off:.1g} from those of hooked passes, allowed {AGREES:.0e}"


def _try(case: Case, engine: Engine) -> Trial:
    evidence, vit = case.evidence, case.vit
    wanted = evidence.unpruned
    unchanged, pruned, logits, effects = [], [], [], []
    for layer, heads in evidence.layers.items():
        first, *others = (read(vit, features) for features in carried(case, engine, layer))
        unchanged.append(apart(first.embedding, wanted.embedding))
        for head, found in zip(heads, others, strict=True):
            hooked = evidence.pruned[layer, head]
            pruned.append(apart(found.embedding, hooked.embedding))
            effects.append(apart(hooked.embedding, wanted.embedding))
            if found.logits is not None and hooked.logits is not None:
                logits.append(apart(found.logits, hooked.logits))
    return Trial(worst(unchanged), worst(pruned), worst(logits) if logits else None,
                 _gated(case, engine), worst(effects))


def carried(case: Case, engine: Engine, layer: int) -> Tensor:
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
    return apart(found.embedding, case.evidence.both.embedding)


def rounding_error(vit: Vit, engine_name: str, pixels: Pixels) -> float:
    """Largest relative difference that bfloat16 makes to a pruned embedding, over some heads."""
    case = Case(vit, pixels)
    exact = make_engine(engine_name, vit.model, vit.anatomy)
    rounded = Rounded(engine_name, vit.model, vit.anatomy)
    return worst([apart(read(vit, of_rounded).embedding, read(vit, of_exact).embedding)
                  for layer in case.evidence.layers
                  for of_rounded, of_exact in zip(carried(case, rounded, layer)[1:],
                                                  carried(case, exact, layer)[1:], strict=True)])


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest relative difference of an image, over all that there is of it; 0 where both are 0."""
    images = len(wanted)
    off = torch.linalg.vector_norm((found - wanted).reshape(images, -1).double(), dim=-1)
    size = torch.linalg.vector_norm(wanted.reshape(images, -1).double(), dim=-1)
    return (off / size.clamp_min(torch.finfo(wanted.dtype).tiny)).max().item()


def far(values: Tensor, wanted: float) -> float:
    return (values - wanted).abs().max().item()


def worst(values: Sequence[float]) -> float:
    """NaN if any is."""
    return torch.tensor(values, dtype=torch.float64).max().item()


def said(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
