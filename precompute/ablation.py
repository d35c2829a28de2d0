"""What is done to a head: a new value for its slice of the site (see `precompute.anatomy`).

An ablation is one small function from the clean head outputs to those of every variant of one
layer; the sweep carries the variants to the embedding and does not care what was done.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

HeadOutputs = Float[Tensor, "image token dim"]
Variants = Float[Tensor, "variant image token dim"]
Ablation = Callable[[HeadOutputs, int, range], Variants]


def zero(heads: HeadOutputs, count: int, chosen: range) -> Variants:
    """One variant per chosen head of `count`, its slice set to 0 (the paper's pruning)."""
    variants = heads.unsqueeze(0).repeat(len(chosen), 1, 1, 1)
    width = heads.shape[-1] // count
    for row, head in enumerate(chosen):
        variants[row, ..., head * width:(head + 1) * width] = 0
    return variants


def nothing(heads: HeadOutputs, count: int, chosen: range) -> Variants:
    """One unchanged variant per chosen head: the no-op that must give the clean outputs."""
    return heads.unsqueeze(0).expand(len(chosen), *heads.shape).clone()


ABLATIONS: dict[str, Ablation] = {"zero": zero}

