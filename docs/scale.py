"""What a large atlas costs: hours, dollars and bytes, from rates that you give.

    python -m docs.scale [--seconds 25] [--images 1300000] [--core-dollars 0.04] ...

Work is counted by the pipeline's own table of stages (`precompute.stages`), bytes by its own
estimate (`precompute.cost`); what was measured and what is assumed stands in docs/scale.md.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from types import SimpleNamespace

from precompute.anatomy import Geometry
from precompute.cost import disk, in_bytes, laid_out
from precompute.samples import unit_size
from precompute.stages import STAGES


@dataclass(frozen=True)
class Kind:
    """A plain ViT with a class token and an ImageNet classifier; `count` of them are planned."""

    name: str
    count: int
    depth: int
    heads: int
    dim: int
    grid: int

    @property
    def pass_operations(self) -> float:
        """Of one forward pass: two for each multiply-add of the blocks."""
        tokens = self.grid ** 2 + 1
        return 2 * self.depth * tokens * (12 * self.dim ** 2 + 2 * tokens * self.dim)

    @property
    def anatomy(self) -> SimpleNamespace:
        """As much of a model's anatomy as counting needs."""
        geometry = Geometry(self.grid, self.grid, 1, True)
        return SimpleNamespace(depth=self.depth, heads=(self.heads,) * self.depth,
                               layers=[SimpleNamespace(geometry=geometry, heads=self.heads)]
                               * self.depth)

    @property
    def vit(self) -> SimpleNamespace:
        return SimpleNamespace(anatomy=self.anatomy, class_names=range(1000),
                               model=SimpleNamespace(num_features=self.dim))


MEASURED = Kind("ViT-S/14 at 224 px", 0, 12, 6, 384, 16)
"""The model whose rate is given."""

PLANNED = (Kind("ViT-Ti/16", 5, 12, 3, 192, 14), Kind("ViT-S/16", 8, 12, 6, 384, 14),
           Kind("ViT-B/16", 7, 12, 12, 768, 14))


@dataclass(frozen=True)
class Rates:
    """What a machine does and costs: seconds an image of MEASURED's `clean` and `heads` stages on
    one core, dollars an hour, and what a GPU is assumed to reach."""

    seconds: float
    core_dollars: float
    gpu_peak: float
    gpu_share: float
    gpu_dollars: float

    @property
    def core_operations(self) -> float:
        return work(MEASURED, 1)[0] / self.seconds


def work(kind: Kind, images: int) -> tuple[float, float]:
    """Operations and bytes of one model: `clean` and `heads` on all images, samples at their
    defaults."""
    operations = size = 0.0
    for stage in STAGES.values():
        count = images if stage.images is None else min(stage.images, images)
        if images == 1 and stage.images is not None:
            continue
        files = math.ceil(count / unit_size(count, largest=stage.largest))
        operations += count * stage.passes(kind.anatomy, 1) * kind.pass_operations
        size += disk(stage, kind.vit, count, files)
        if stage.name == "heads":
            size += laid_out(kind.vit, count, files)
    return operations, size


def table(rates: Rates, images: int) -> list[str]:
    """A Markdown table: a row for each kind of model, and their sum."""
    lines = ["| models | operations an image | core hours | $ on cores | GPU hours | $ on GPUs | "
             "on disk |", "|---|---|---|---|---|---|---|"]
    sums = [0.0] * 5
    for kind in PLANNED:
        operations, size = (kind.count * value for value in work(kind, images))
        core = operations / rates.core_operations / 3600
        gpu = operations / (rates.gpu_peak * rates.gpu_share) / 3600
        values = [core, core * rates.core_dollars, gpu, gpu * rates.gpu_dollars, size]
        sums = [a + b for a, b in zip(sums, values, strict=True)]
        lines.append(_row(f"{kind.count} × {kind.name}",
                          f"{work(kind, 1)[0] / 1e9:,.0f} GFLOP", values))
    return [*lines, _row(f"**all {sum(k.count for k in PLANNED)}**", "", sums)]


def _row(name: str, operations: str, values: list[float]) -> str:
    core, core_dollars, gpu, gpu_dollars, size = values
    return (f"| {name} | {operations} | {core:,.0f} | {core_dollars:,.0f} | {gpu:,.0f} | "
            f"{gpu_dollars:,.0f} | {in_bytes(size)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default, what in (
            ("seconds", None, "seconds an image of ViT-S/14 at 224 px on one core, measured"),
            ("images", 1_300_000, "images"),
            ("core-dollars", 0.04, "price of a core for an hour"),
            ("gpu-peak", 60e12, "operations a second of a GPU in the arithmetic used"),
            ("gpu-share", 0.4, "share of that peak that is reached"),
            ("gpu-dollars", 3.0, "price of a GPU for an hour")):
        parser.add_argument(f"--{name}", type=float, default=default, required=default is None,
                            help=f"{what} ({default})")
    args = parser.parse_args()
    rates = Rates(args.seconds, args.core_dollars, args.gpu_peak, args.gpu_share, args.gpu_dollars)
    print("\n".join(table(rates, int(args.images))))


if __name__ == "__main__":
    main()
