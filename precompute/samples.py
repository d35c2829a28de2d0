"""Which images a stage that is not done on all of them is done on.

The images of a sample are those whose file hashes are smallest, so it is spread over folders and
labels and every run would choose the same. They are registered in units, in a file that only ever
grows, under the writer's lock: two runs at once agree, and asking for more only adds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from store import places
from store.reader import Store
from store.writer import StoreWriter

SMALLEST, LARGEST, UNITS = 4, 512, 64
"""Images in a unit: enough units to feed many workers, but few files where images are many."""


@dataclass(frozen=True)
class Sample:
    """The images of every unit of a stage, and what was settled once for all of them."""

    units: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> set[int]:
        return {image for unit in self.units.values() for image in unit}


def unit_size(images: int, smallest: int = SMALLEST, largest: int = LARGEST) -> int:
    """How many images to put into a unit, of so many."""
    return max(smallest, min(largest, math.ceil(images / UNITS)))


def spread(store: Store, among: Sequence[int] | None = None) -> list[int]:
    """All images (or these), in the order in which they are sampled."""
    rows = store.query("SELECT image FROM images ORDER BY sha256, image")["image"].to_pylist()
    if among is None:
        return rows
    allowed = set(among)
    return [image for image in rows if image in allowed]


def read(writer: StoreWriter, model: str, stage: str) -> Sample:
    """What is registered."""
    return Sample(**places.read_sample(writer.path, model, stage))


def lacking(sample: Sample, candidates: Sequence[int], wanted: int | None) -> list[int]:
    """The images that are to join a sample so that it holds as many as wanted (None: all)."""
    known = sample.images
    count = len(candidates) if wanted is None else wanted
    return [image for image in candidates if image not in known][:max(0, count - len(known))]


def register(writer: StoreWriter, model: str, stage: str, candidates: Sequence[int],
             wanted: int | None, fixed: Mapping[str, Any] | None = None,
             largest: int = LARGEST) -> Sample:
    """Bring a sample up to the number wanted, in units of at most `largest` images; what is fixed
    stays as it was settled first."""
    with writer.lock():
        before = read(writer, model, stage)
        fresh = lacking(before, candidates, wanted)
        if not fresh:
            return before
        size = unit_size(len(fresh), largest=largest)
        first = max((int(unit) for unit in before.units), default=-1) + 1
        units = {f"{first + i:05d}": sorted(fresh[start:start + size])
                 for i, start in enumerate(range(0, len(fresh), size))}
        after = Sample({**before.units, **units}, before.fixed or dict(fixed or {}))
        file = places.samples_folder(writer.path, model) / f"{stage}.json"
        writer.write_bytes(file.relative_to(writer.path), json.dumps(
            {"units": after.units, "fixed": after.fixed}, default=list).encode())
        return after
