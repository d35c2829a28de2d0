"""The `heads` table: every head's measures over all images, its ranks, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from scipy.stats import rankdata

from precompute.patterns import pattern_columns
from store.reader import Store
from store.schema import IMPORTANCE, RANKED, STRENGTH, SUMMARISED, Column, direction
from store.writer import to_table

REPLICATES = 500
ENDS = (2.5, 97.5)
CHUNK = 1024
SEED = 0

Values = Float[np.ndarray, "image head measure"]
Means = Float[np.ndarray, "replicate head measure"]


def summarise(store: Store, model: str) -> pa.Table:
    """The rows of `heads` for one model: mean, median and the 95 % percentile bootstrap interval
    of the mean over images, of every measure of every head (zero ablation), and by each measure
    that ranks heads the head's rank and its interval; and what its attention looks like.

    The bootstrap is Poisson's (each image weighs Poisson(1), seeded by its number), so that all
    heads and measures share their resamples and images stream through in chunks.
    """
    (depth,) = store.query("SELECT layers FROM models WHERE model = ?", [model])["layers"]
    heads = heads_of(store, model)
    images = images_of(store, model)
    replicates = Replicates(len(heads), len(SUMMARISED))
    for chunk in chunks(images, CHUNK):
        rows = store.query(_rows_sql(), [model, chunk[0], chunk[-1]])
        values = np.stack([floats(rows[m.name]) for m in SUMMARISED], axis=-1)
        replicates.add(values.reshape(len(chunk), len(heads), len(SUMMARISED)),
                       bootstrap_weights(chunk, REPLICATES))
    means = filled(replicates.means())
    medians = store.query(_medians_sql(), [model])
    columns: dict[str, object] = {
        "model": [model] * len(heads),
        "layer": [layer for layer, _ in heads],
        "head": [head for _, head in heads],
        "normalised_depth": [layer / max(depth.as_py() - 1, 1) for layer, _ in heads],
        "images": [len(images)] * len(heads),
    }
    for i, m in enumerate(SUMMARISED):
        columns |= _mean_columns(m, means[..., i])
        columns[f"{m.name}_median"] = floats(medians[m.name])
        if m in RANKED:
            columns |= _rank_columns(m, means[..., i])
    columns |= pattern_columns(store, model, heads, images)
    return to_table("heads", columns)


def heads_of(store: Store, model: str) -> list[tuple[int, int]]:
    """The model's heads as (layer, head), in that order."""
    rows = store.query("SELECT DISTINCT layer, head FROM head_scores WHERE model = ? ORDER BY ALL",
                       [model])
    return list(zip(rows["layer"].to_pylist(), rows["head"].to_pylist(), strict=True))


def images_of(store: Store, model: str, ablation: str = "zero") -> list[int]:
    """The images on which the model's heads have been ablated in this way, in order."""
    return store.query("SELECT DISTINCT image FROM head_scores WHERE model = ? AND ablation = ? "
                       "ORDER BY ALL", [model, ablation])["image"].to_pylist()


def chunks(images: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(images), size):
        yield images[start:start + size]


def bootstrap_weights(images: Sequence[int], replicates: int) -> Float[np.ndarray, "row image"]:
    """How often each image counts: once in the first row, Poisson(1) times in each replicate."""
    drawn = [np.random.default_rng((SEED, i)).poisson(1.0, replicates) for i in images]
    return np.vstack([np.ones(len(images)), np.stack(drawn, axis=1)])


class Replicates:
    """Weighted means over images that stream by; `others` replicates beside the whole."""

    def __init__(self, heads: int, measures: int, others: int = REPLICATES) -> None:
        self.sums = np.zeros((others + 1, heads, measures))
        self.weights = np.zeros((others + 1, heads, measures))

    def add(self, values: Values, weights: Float[np.ndarray, "replicate image"]) -> None:
        """`values` are NaN where undefined."""
        known = ~np.isnan(values)
        self.sums += np.einsum("ri,ihm->rhm", weights, np.where(known, values, 0), optimize=True)
        self.weights += np.einsum("ri,ihm->rhm", weights, known.astype(float), optimize=True)

    def means(self) -> Means:
        """NaN where no known value has any weight."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums / self.weights


def filled(means: Means) -> Means:
    """With the first, the whole, in the place of replicates that drew none of a head's images."""
    return np.where(np.isnan(means), means[:1], means)


def ranks(means: Float[np.ndarray, "*replicate head"], sign: int,
          ) -> Float[np.ndarray, "*replicate head"]:
    """1 = matters most; ties share the mean of their ranks; NaN where the mean is.

    Ranked as stored, in float32: equal columns of the table have equal ranks.
    """
    known = ~np.isnan(means).reshape(-1, means.shape[-1]).any(axis=0)
    found = np.full(means.shape, np.nan)
    found[..., known] = rankdata(-sign * means[..., known].astype(np.float32), axis=-1)
    return found


def _mean_columns(measure: Column, means: Float[np.ndarray, "replicate head"],
                  ) -> dict[str, object]:
    low, high = _interval(means)
    return {f"{measure.name}_mean": means[0], f"{measure.name}_low": low,
            f"{measure.name}_high": high}


def _rank_columns(measure: Column, means: Float[np.ndarray, "replicate head"],
                  ) -> dict[str, object]:
    found = ranks(means, direction(measure))
    low, high = _interval(found)
    return {f"{measure.name}_rank": found[0], f"{measure.name}_rank_low": low,
            f"{measure.name}_rank_high": high}


def _interval(values: Float[np.ndarray, "replicate head"]) -> Float[np.ndarray, "end head"]:
    """The ends over all replicates but the first, which is the whole; NaN where that is."""
    known = ~np.isnan(values[0])
    ends = np.full((2, len(known)), np.nan)
    ends[:, known] = np.percentile(values[1:, known], ENDS, axis=0)
    return ends


def _rows_sql() -> str:
    scores = ", ".join(f"s.{number(m)} AS {m.name}" for m in IMPORTANCE)
    strengths = ", ".join(f"t.{number(m)} AS {m.name}" for m in STRENGTH)
    return (f"SELECT {scores}, {strengths} FROM head_scores s "
            "LEFT JOIN head_strength t USING (model, image, layer, head) "
            "WHERE model = ? AND image BETWEEN ? AND ? AND ablation = 'zero' "
            "ORDER BY image, layer, head")


def _medians_sql() -> str:
    medians = ", ".join(f"median({number(m)}) AS {m.name}" for m in SUMMARISED)
    return (f"SELECT {medians} FROM head_scores LEFT JOIN head_strength "
            "USING (model, image, layer, head) WHERE model = ? AND ablation = 'zero' "
            "GROUP BY layer, head ORDER BY layer, head")


def number(measure: Column) -> str:
    """SQL of a measure's column as a double; booleans count as 0 and 1."""
    return f"{measure.name}::{'INT::' if pa.types.is_boolean(measure.type) else ''}DOUBLE"


def floats(column: pa.ChunkedArray) -> Float[np.ndarray, row]:
    """A column as float64, NaN for NULL."""
    return np.asarray(column.to_numpy(), dtype=float)


def as_table(name: str, rows: pa.Table) -> pa.Table:
    """The answer to a query as rows of a table of the store."""
    return to_table(name, {column: rows[column].combine_chunks() for column in rows.column_names})
