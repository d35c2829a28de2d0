"""Lists of most probable classes as arrays: a fifth of their bytes as rows, and no loop over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

Place = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Lists:
    """`classes`: int[..., place], -1 after the last of a list; `chances`: float32, alike; `there`:
    whether there is a list, bool[...]; `names` by class."""

    classes: np.ndarray
    chances: np.ndarray
    there: np.ndarray
    names: dict[int, str]

    @property
    def nbytes(self) -> int:
        return self.classes.nbytes + self.chances.nbytes + self.there.nbytes

    def at(self, place: int | tuple[int, ...]) -> list[dict] | None:
        """One list as the store has it."""
        if not self.there[place]:
            return None
        pairs = zip(self.classes[place].tolist(), self.chances[place].tolist(), strict=True)
        return [{"class": c, "name": self.names[c], "probability": p} for c, p in pairs if c >= 0]


def dense(column: pa.ChunkedArray, place: Place, shape: Sequence[int]) -> Lists:
    """The lists of a column of `table.TOP5`, each at its place; where it is NULL there is none."""
    found = column.combine_chunks()
    known = found.is_valid().to_numpy(zero_copy_only=False)
    each = found.flatten()
    number, chance = each.field("class").to_numpy(), each.field("probability").to_numpy()
    count = np.diff(found.offsets.to_numpy()) * known
    listed = np.arange(count.max(initial=0)) < count[:, None]
    there = np.zeros(shape, bool)
    there[place] = known

    def laid_out(values: np.ndarray, nothing: np.generic) -> np.ndarray:
        rows = np.full(listed.shape, nothing)
        rows[listed] = values
        out = np.full((*shape, listed.shape[1]), nothing)
        out[place] = rows
        return out

    smallest = np.min_scalar_type(-1 - number.max(initial=0))
    return Lists(laid_out(number, smallest.type(-1)), laid_out(chance, np.float32(0)), there,
                 _names(each))


def _names(each: pa.StructArray) -> dict[int, str]:
    """The names of classes."""
    coded = each.field("class").dictionary_encode()
    some = np.empty(len(coded.dictionary), np.int64)
    some[coded.indices.to_numpy()] = np.arange(len(each))
    names = each.field("name").take(pa.array(some)).to_pylist()
    return dict(zip(coded.dictionary.to_pylist(), names, strict=True))
