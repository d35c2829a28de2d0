"""What a run will cost, told before it is spent: operations, time and bytes on disk.

Operations are counted in one forward pass and multiplied by how many passes a stage is worth; time
comes from ablating heads of a few made-up images, here and now; bytes from the tables' columns.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from precompute.batches import Batch, batch_size, unit_sizes
from precompute.clean import CleanPass, clean_pass
from precompute.heads import measure_heads
from precompute.models import Vit
from precompute.orders import split
from precompute.patterning import LATENT
from precompute.progress import say
from precompute.readout import Nothing
from precompute.register import read_row
from precompute.samples import read, unit_size
from precompute.stages import ROWS, STAGES, Stage
from precompute.subject import FLOAT32, Subject
from precompute.sweep import ROW_TOKENS
from store import places
from store.bins import MOST
from store.canon import CLASS, NEAR_SIDE, PATCH
from store.pattern_tables import CODES
from store.reader import Store
from store.schema import SUMMARISED, TABLES, TOP5, Table
from store.series_tables import CELL_COLUMNS, MOST_IMAGES
from store.writer import StoreWriter

FLOAT, CODE, OTHER, COLUMN = 3.6, 0.65, 0.4, 300
"""Bytes on disk of a float in a row, of a byte of a pattern or a matrix, of any other value (these
repeat), and of a column in a file (or a row group), as measured on stores of the bundled models."""

LONG = 0.4
"""Seconds for a calibration of the head stage; a longer one is not repeated."""


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
        free = float(shutil.disk_usage(writer.path).free)
        short = f"; only {in_bytes(free)} are free" if total(costs).disk > free else ""
        say(f"  (by {workers} worker{'s' * (workers > 1)}; times are scaled up from a calibration "
            f"of {time.perf_counter() - started:.1f} s, half or twice as long is no surprise"
            f"{short})")
    return costs


def model_costs(writer: StoreWriter, name: str, vit: Vit, wanted: Mapping[str, int | None],
                draws: int, workers: int) -> Iterator[Cost]:
    """The stages of a model that have images to do."""
    speed, row = None, read_row(writer, name)
    rows = Store(writer.path, tables=("images",)).query("SELECT image, sha256 FROM images")
    there = list(zip(rows["image"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    for stage in STAGES.values():
        candidates = len(split(there)[1]) if stage.judges else len(there)
        images, files = to_do(writer, name, stage, wanted[stage.name], candidates)
        if images:
            speed = speed or calibrate(vit, row["engine"], row["precision"])
            passes = images * stage.passes(vit.anatomy, draws)
            yield Cost(f"{name}, {stage.name}", images, passes * speed.operations,
                       passes * speed.seconds / workers, disk(stage, vit, images, files)
                       + (laid_out(vit, images, files) + lined_up(vit, images)
                          if stage.name == "heads" else 0))


def to_do(writer: StoreWriter, name: str, stage: Stage, wanted: int | None, candidates: int,
          ) -> tuple[int, int]:
    """Images, and units, that are not done or would be registered."""
    missing = unit_sizes(writer.path, name, stage.name)
    fresh = 0
    if stage.name not in places.OVER_ALL:
        known = len(read(writer, name, stage.name).images)
        fresh = max(0, min(candidates, candidates if wanted is None else wanted) - known)
    return (sum(missing.values()) + fresh,
            len(missing) + math.ceil(fresh / unit_size(fresh, largest=stage.largest)))


def calibrate(vit: Vit, engine: str, precision: str = FLOAT32) -> Speed:
    """Operations of one image's forward pass, counted; and the time of one while heads are ablated:
    from as many variants as are carried at once, and for a small model from the whole head stage on
    a batch."""
    channels = 1 if vit.mode == "L" else 3
    subject = Subject("", vit, engine, Nothing(), {}, None, precision)

    def noise(images: int) -> Batch:
        shape = (images, channels, *vit.anatomy.image)
        return Batch(list(range(images)), [None] * images, torch.randn(shape, device=vit.device))

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clean = clean_pass(vit.model, vit.anatomy, noise(1).pixels)
    seconds = _carrying(subject, clean)
    whole = STAGES["heads"].passes(vit.anatomy, 1)
    images = min(batch_size(vit, None), int(LONG / (seconds * whole)))
    if images:
        batch = noise(images)
        seconds = _timed(lambda: measure_heads(subject, batch)) / (images * whole)
    return Speed(float(counter.get_total_flops()), seconds)


def _carrying(subject: Subject, clean: CleanPass) -> float:
    """Seconds for one forward pass's worth of carrying."""
    anatomy = subject.vit.anatomy
    middle = anatomy.depth // 2
    heads = clean.calls[middle].heads
    count = max(1, ROW_TOKENS[heads.device.type] // anatomy.layers[middle].geometry.tokens)
    variants = torch.zeros_like(heads).expand(count, *heads.shape)
    seconds = _timed(lambda: subject.carrier.carry(clean, middle, variants).features.cpu())
    return seconds / (count * (anatomy.depth - middle) / anatomy.depth)


def _timed(work: Callable[[], object]) -> float:
    """Seconds that it takes; at the second go, unless the first was long already."""
    for _ in range(2):
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        if seconds > LONG:
            break
    return seconds


def disk(stage: Stage, vit: Vit, images: int, files: int) -> float:
    """Bytes of so many files of each of a stage's tables."""
    return sum(_table_bytes(TABLES[table], images * ROWS[table](vit.anatomy), vit, files)
               for table in stage.tables)


def laid_out(vit: Vit, images: int, files: int) -> float:
    """Bytes of the places of these images' patterns, which follow from the head stage."""
    rows = sum(layer.heads * ((not layer.geometry.class_query) + layer.geometry.class_token)
               for layer in vit.anatomy.layers)
    return _table_bytes(TABLES["head_patterns"], images * rows, vit, files)


def lined_up(vit: Vit, images: int) -> float:
    """Bytes of the arrays of so many images that the page filters by; of too many, there are none.
    """
    if images > MOST_IMAGES:
        return 0.0
    heads = sum(layer.heads for layer in vit.anatomy.layers)
    of_head = 4 * (2 * len(SUMMARISED) + lengths(vit)["hop_strength"]) \
        + (2 + 12) * len(CELL_COLUMNS)
    of_image = len(SUMMARISED) * (2 * 8 + 0.75 * MOST)
    return images * (heads * of_head + of_image)


def _table_bytes(table: Table, rows: int, vit: Vit, files: int) -> float:
    groups = files if table.rows_at_once is None else rows / table.rows_at_once
    return rows * row_bytes(table.name, vit) + groups * COLUMN * len(table.columns)


def row_bytes(table: str, vit: Vit) -> float:
    """Bytes of a row, most of them its floats and codes, which hardly compress."""
    numbers = lengths(vit)
    return sum(WIDTHS.get(str(column.type), OTHER) * numbers.get(column.name, 1)
               for column in TABLES[table].columns)


WIDTHS = {"float": FLOAT, "list<item: float>": FLOAT, str(TOP5): FLOAT,
          str(CODES): CODE, "binary": CODE}
"""Bytes of a number, by the type of its column."""


def lengths(vit: Vit) -> dict[str, int | float]:
    """How many numbers a value of a column has, where it is not one; the mean over the layers."""
    shapes = [layer.geometry for layer in vit.anatomy.layers]
    hops = max(max(shape.grid_h, shape.grid_w) for shape in shapes)
    rows = [windows * queries for windows, queries, _ in (s.attention_shape for s in shapes)]
    weights = [math.prod(shape.attention_shape) for shape in shapes]
    return {"embedding": getattr(vit.model, "num_features", 0), "top5": 6,
            "logits": len(vit.class_names or ()), "hop_strength": hops, "hop_mass": hops,
            "patch": PATCH.size, "class": CLASS.size * any(s.class_token for s in shapes),
            "near": NEAR_SIDE ** 2, "latent": LATENT, "pca": LATENT, "tops": sum(rows) / len(rows),
            "weights": sum(weights) / len(weights)}


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
