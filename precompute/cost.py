"""What a run will cost, told before it is spent: operations, time and bytes on disk.

Operations are counted in one forward pass and multiplied by how many passes a stage is worth; time
comes from carrying some heads of one image, here and now; bytes from the columns of the tables.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from precompute.batches import unit_sizes
from precompute.clean import clean_pass
from precompute.models import Vit
from precompute.orders import split
from precompute.progress import say
from precompute.register import read_row
from precompute.samples import read, unit_size
from precompute.stages import ROWS, STAGES, Stage
from precompute.sweep import ROW_TOKENS, make_engine
from store import places
from store.reader import Store
from store.schema import TABLES
from store.writer import StoreWriter

FOOTER = 700
"""Bytes that each column adds to each file: its place and statistics."""

SMALL = 0.3
"""Bytes of a number that is no float: keys, names and truths repeat, and compress."""

LONG = 2.0
"""A calibration longer than this many seconds is not repeated."""


@dataclass(frozen=True)
class Speed:
    """Of one model: what one forward pass costs."""

    operations: float
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What a stage of a model is going to cost."""

    name: str
    images: int
    operations: float
    seconds: float
    disk: float


def tell_cost(writer: StoreWriter, vits: Mapping[str, Vit], wanted: Mapping[str, int | None],
              draws: int, workers: int) -> list[Cost]:
    """Say what is still to be done for these models, if anything is."""
    started = time.perf_counter()
    costs = [cost for name, vit in vits.items()
             for cost in model_costs(writer, name, vit, wanted, draws, workers)]
    if costs:
        for line in as_lines([*costs, total(costs)]):
            say(line)
        free = shutil.disk_usage(writer.path).free
        short = f"; only {in_bytes(free)} are free" if total(costs).disk > free else ""
        say(f"  (by {workers} worker{'s' * (workers > 1)}; times are scaled up from a calibration "
            f"of {time.perf_counter() - started:.1f} s, half or twice as long is no surprise"
            f"{short})")
    return costs


def model_costs(writer: StoreWriter, name: str, vit: Vit, wanted: Mapping[str, int | None],
                draws: int, workers: int) -> Iterator[Cost]:
    """The stages of a model that have images to do."""
    speed: Speed | None = None
    rows = Store(writer.path, tables=("images",)).query("SELECT image, sha256 FROM images")
    there = list(zip(rows["image"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    for stage in STAGES.values():
        candidates = len(split(there)[1]) if stage.judges else len(there)
        images = images_to_do(writer, name, stage, wanted[stage.name], candidates)
        if images:
            speed = speed or calibrate(vit, read_row(writer, name)["engine"])
            passes = images * stage.passes(vit.anatomy, draws)
            yield Cost(f"{name}, {stage.name}", images, passes * speed.operations,
                       passes * speed.seconds / workers, disk(stage, vit, images))


def images_to_do(writer: StoreWriter, name: str, stage: Stage, wanted: int | None,
                 candidates: int) -> int:
    """Images of units that are not done, and of those that would be registered."""
    left = sum(unit_sizes(writer.path, name, stage.name).values())
    if stage.name in places.OVER_ALL:
        return left
    known = len(read(writer, name, stage.name).images)
    return left + max(0, min(candidates, candidates if wanted is None else wanted) - known)


@torch.no_grad()
def calibrate(vit: Vit, engine: str) -> Speed:
    """One image through the model, operations counted; then as many variants of the middle layer
    as are carried at once to the end, timed."""
    channels = 1 if vit.mode == "L" else 3
    pixels = torch.randn(1, channels, *vit.anatomy.image, device=vit.device)
    with FlopCounterMode(display=False) as counter:
        clean = clean_pass(vit.model, vit.anatomy, pixels)
    carrier = make_engine(engine, vit.model, vit.anatomy)
    middle = vit.anatomy.depth // 2
    heads = clean.calls[middle].heads
    count = max(1, ROW_TOKENS[vit.device.type] // vit.anatomy.layers[middle].geometry.tokens)
    variants = torch.zeros_like(heads).expand(count, *heads.shape)
    for _ in range(2):
        started = time.perf_counter()
        carrier.carry(clean, middle, variants).features.cpu()
        seconds = time.perf_counter() - started
        if seconds > LONG:
            break
    passes = count * (vit.anatomy.depth - middle) / vit.anatomy.depth
    return Speed(counter.get_total_flops(), seconds / passes)


def disk(stage: Stage, vit: Vit, images: int) -> float:
    """Bytes of a stage's files: numbers hardly compress, so a row is as long as its floats."""
    files = math.ceil(images / unit_size(images))
    return sum(images * ROWS[table](vit.anatomy) * row_bytes(table, vit)
               + files * FOOTER * len(TABLES[table].columns) for table in stage.tables)


def row_bytes(table: str, vit: Vit) -> float:
    """Bytes of the floats in a row; what repeats from row to row takes next to nothing."""
    hops = max(max(layer.geometry.grid_h, layer.geometry.grid_w) for layer in vit.anatomy.layers)
    lengths = {"embedding": getattr(vit.model, "num_features", 0),
               "logits": len(vit.class_names or ()), "hop_strength": hops, "hop_mass": hops}
    return sum(4 * lengths.get(column.name, 1) if "float" in str(column.type) else SMALL
               for column in TABLES[table].columns)


def in_operations(count: float) -> str:
    return _with_prefix(count, 1000, ("", "k", "M", "G", "T", "P", "E")) + "FLOP"


def in_bytes(count: float) -> str:
    return _with_prefix(count, 1000, ("", "k", "M", "G", "T", "P")) + "B"


def in_time(seconds: float) -> str:
    """In the unit that a person would use."""
    for limit, length, unit in ((100, 1, "s"), (6000, 60, "min"), (100 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.{0 if seconds / length >= 10 else 1}f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def _with_prefix(count: float, step: int, prefixes: tuple[str, ...]) -> str:
    power = min(int(math.log(max(count, 1), step)), len(prefixes) - 1)
    value = count / step ** power
    return f"{value:,.{0 if value >= 10 else 1}f} {prefixes[power]}"


def as_lines(costs: Iterable[Cost]) -> Iterator[str]:
    """A heading, and a line for each."""
    rows = [("to do", "images", "operations", "time", "disk"), *(
        (cost.name, f"{cost.images:,}", in_operations(cost.operations), in_time(cost.seconds),
         in_bytes(cost.disk)) for cost in costs)]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for name, *figures in rows:
        yield "  ".join([name.ljust(widths[0]), *(
            figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))])


def total(costs: list[Cost]) -> Cost:
    return Cost("together", sum(c.images for c in costs), sum(c.operations for c in costs),
                sum(c.seconds for c in costs), sum(c.disk for c in costs))
