"""The patterns of a store's heads, as they go into a space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from precompute.class_names import RULES as CLASS_RULES
from precompute.class_names import class_names, class_scores
from precompute.names import RULES, name_of_mean
from precompute.samples import spread
from store import canon, places
from store.canon import CLASS, Kind
from store.reader import Store

MOST, FEWEST = 12_000, 8
"""Patterns that a space is fitted on, over all models; but of no model fewer images than that."""
ROWS = 8192
"""Rows read at once."""


Some = TypeVar("Some", bound="Patterns")


@dataclass(frozen=True)
class Patterns:
    """Patterns of one kind, and whose they are: one entry each."""

    kind: Kind
    model: np.ndarray
    layer: np.ndarray
    head: np.ndarray
    shares: Float[np.ndarray, "pattern share"]

    def __len__(self) -> int:
        return len(self.shares)

    def where(self: Some, mask: Bool[np.ndarray, pattern]) -> Some:
        """Some of them."""
        return replace(self, **{field.name: getattr(self, field.name)[mask]
                                for field in fields(self) if field.name != "kind"})

    @property
    def models(self) -> list[str]:
        return sorted(set(self.model))

    @property
    def owner(self) -> Int[np.ndarray, pattern]:
        """A number for each head of each model."""
        keys = np.stack([np.unique(self.model, return_inverse=True)[1], self.layer, self.head])
        return np.unique(keys, axis=1, return_inverse=True)[1]


@dataclass(frozen=True)
class Single(Patterns):
    """Patterns of heads on single images."""

    image: np.ndarray


@dataclass(frozen=True)
class Means(Patterns):
    """Mean patterns of heads over all images, the names that they got, and the scores of all rules
    for names (none for class patterns, whose names follow from the patterns alone)."""

    name: np.ndarray
    scores: np.ndarray

    def common_name(self, which: np.ndarray) -> str:
        """What the mean of these heads is called, or nearly, and how many of them are called so."""
        rules, scores = (CLASS_RULES, class_scores(self.shares[which].mean(0, keepdims=True))[0]) \
            if self.kind is CLASS else (RULES, self.scores[which].mean(0))
        name, exactly = name_of_mean(rules, scores.tolist())
        called = np.mean(self.name[which] == name)
        return f"{'' if exactly else 'nearly '}{name} ({called:.0%})"


def sample(store: Store, kind: Kind, models: Sequence[str]) -> Single:
    """Of each of these models (at least one) as many patterns: those of all its heads on the
    images that come first in the order of samples (`samples.spread`), about MOST in all."""
    order = spread(store)
    found = [_of_model(store, kind, model, order, MOST // len(models)) for model in models]
    return Single(kind, *(np.concatenate([getattr(one, field.name) for one in found])
                          for field in fields(Single) if field.name != "kind"))


def _of_model(store: Store, kind: Kind, model: str, order: Sequence[int], most: int) -> Single:
    own = Store(store.path, tables=("pattern_inputs",), model=model)
    known = set(own.query("SELECT DISTINCT image FROM pattern_inputs")["image"].to_pylist())
    (heads,) = own.query("SELECT count(DISTINCT (layer, head)) AS n FROM pattern_inputs "
                         f'WHERE "{kind.name}" IS NOT NULL')["n"].to_pylist()
    count = max(FEWEST, most // max(heads, 1))
    images = [image for image in order if image in known][:count]
    rows = own.query(f'SELECT image, layer, head, "{kind.name}" FROM pattern_inputs '
                     f'WHERE "{kind.name}" IS NOT NULL AND list_contains(?, image) '
                     "ORDER BY image, layer, head", [images])
    own.close()
    return decoded(kind, model, rows)


def decoded(kind: Kind, model: str, rows: pa.Table | pa.RecordBatch) -> Single:
    """Rows of `pattern_inputs` that have this kind of pattern."""
    rows = rows.filter(rows[kind.name].is_valid())
    codes = vectors(rows[kind.name], kind.size)
    return Single(kind, np.full(len(codes), model, object), np.asarray(rows["layer"]),
                  np.asarray(rows["head"]), canon.decode(kind, codes), np.asarray(rows["image"]))


def vectors(column: pa.Array | pa.ChunkedArray, size: int) -> np.ndarray:
    """Lists of equal length, none NULL, as an array (row x size)."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)


def stream(path: Path, model: str, part: str) -> Iterator[pa.RecordBatch]:
    """The rows of `pattern_inputs` of a model's part of the images, a few at a time."""
    unit = places.model_folder(path, model) / "heads" / part
    with pq.ParquetFile(unit / "pattern_inputs.parquet") as file:
        yield from file.iter_batches(ROWS)


def means(store: Store, kind: Kind) -> Means:
    """The mean patterns of all heads that have one (`heads`)."""
    column = f"{kind.name}_pattern"
    rows = store.query(f"""
SELECT model, layer, head, pattern, {column},
       list_transform(pattern_scores, lambda rule: rule.score) AS scores
FROM heads WHERE {column} IS NOT NULL ORDER BY model, layer, head""".strip())
    model, name = (np.array(rows[name].to_pylist(), object) for name in ("model", "pattern"))
    shares = vectors(rows[column], kind.size).astype(np.float32)
    if kind is CLASS:
        name, scores = np.array(class_names(shares), object), np.empty((len(shares), 0))
    else:
        scores = np.array(rows["scores"].to_pylist(), float).reshape(-1, len(RULES))
    return Means(kind, model, np.asarray(rows["layer"]), np.asarray(rows["head"]), shares, name,
                 scores)
