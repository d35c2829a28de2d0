"""The sweep in bfloat16: faster where the machine has units for it, and not exact.

The clean pass stays in float32; variants are carried by a copy of the model in bfloat16. How far
its embeddings are from float32's is measured before a run and kept in `models.precision_error`.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from precompute.ablation import Variants
from precompute.anatomy import Anatomy, Model
from precompute.clean import CleanPass
from precompute.families import dissect
from precompute.sweep import Carried, Gates, make_engine


class Rounded:
    """An engine whose arithmetic is bfloat16; what it takes and gives is float32."""

    def __init__(self, engine: str, model: Model, anatomy: Anatomy) -> None:
        rounded = copy.deepcopy(model).to(torch.bfloat16)
        channels = 3  # of no interest to the anatomy
        self._inner = make_engine(engine, rounded, dissect(
            rounded, anatomy.family, (channels, *anatomy.image)))
        self._last: tuple[CleanPass, CleanPass] | None = None

    @torch.no_grad()
    def carry(self, clean: CleanPass, layer: int, heads: Variants,
              gates: Gates | None = None) -> Carried:
        gates = None if gates is None else {k: _rounded(g) for k, g in gates.items()}
        found = self._inner.carry(self._round(clean), layer, _rounded(heads), gates)
        return Carried(found.features.float(), found.block_output.float())

    def _round(self, clean: CleanPass) -> CleanPass:
        """The clean pass in bfloat16; the last one is kept, being asked for layer by layer."""
        if self._last is None or self._last[0] is not clean:
            self._last = clean, replace(
                clean, images=_rounded(clean.images), features=_rounded(clean.features),
                embedded=None if clean.embedded is None else _rounded(clean.embedded),
                calls=[replace(call, heads=_rounded(call.heads), output=_rounded(call.output))
                       for call in clean.calls])
        return self._last[1]


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16)
