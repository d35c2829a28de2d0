"""The `heads` table: every head's measures over all images, with bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from store.reader import Store
from store.schema import IMPORTANCE, STRENGTH, SUMMARISED
from store.writer import to_table

REPLICATES = 500
CHUNK = 4096
SEED = 0


def summarise(store: Store, model: str) -> pa.Table:
    """The rows of `heads` for one model: mean, median and the 95 % percentile bootstrap interval
    of the mean over images, of every measure of every head (zero ablation).

    The bootstrap is Poisson's (each image weighs Poisson(1), seeded by its number), so that all
    heads and measures share their resamples and images stream through in chunks.
    """
    (depth,) = store.query("SELECT layers FROM models WHERE model = ?", [model])["layers"]
    heads = store.query("SELECT DISTINCT layer, head FROM head_scores WHERE model = ? "
                        "ORDER BY ALL", [model]).to_pylist()
    medians = store.query(_medians_sql(), [model])
    images = [r["image"] for r in store.query(
        "SELECT DISTINCT image FROM head_scores WHERE model = ? ORDER BY ALL", [model]).to_pylist()]
    replicates = _Replicates(len(heads), len(SUMMARISED))
    for start in range(0, len(images), CHUNK):
        chunk = images[start:start + CHUNK]
        rows = store.query(_rows_sql(), [model, chunk[0], chunk[-1]])
        values = np.stack([_floats(rows[m.name]) for m in SUMMARISED], axis=-1)
        replicates.add(values.reshape(len(chunk), len(heads), len(SUMMARISED)), chunk)
    mean, low, high = replicates.result()
    columns: dict[str, object] = {
        "model": [model] * len(heads),
        "layer": [h["layer"] for h in heads],
        "head": [h["head"] for h in heads],
        "normalised_depth": [h["layer"] / max(depth.as_py() - 1, 1) for h in heads],
        "images": [len(images)] * len(heads),
    }
    for i, m in enumerate(SUMMARISED):
        columns |= {f"{m.name}_mean": mean[:, i], f"{m.name}_low": low[:, i],
                    f"{m.name}_high": high[:, i], f"{m.name}_median": _floats(medians[m.name])}
    return to_table("heads", columns)


class _Replicates:
    """Weighted sums of measures for every bootstrap replicate; the first one weighs all as 1."""

    def __init__(self, heads: int, measures: int) -> None:
        self.sums = np.zeros((REPLICATES + 1, heads, measures))
        self.weights = np.zeros((REPLICATES + 1, heads, measures))

    def add(self, values: np.ndarray, images: list[int]) -> None:
        """`values`: image x head x measure, NaN where undefined."""
        weights = np.stack([np.random.default_rng((SEED, i)).poisson(1.0, REPLICATES)
                            for i in images], axis=1)
        weights = np.vstack([np.ones(len(images)), weights])
        known = ~np.isnan(values)
        self.sums += np.einsum("ri,ihm->rhm", weights, np.where(known, values, 0), optimize=True)
        self.weights += np.einsum("ri,ihm->rhm", weights, known.astype(float), optimize=True)

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and the ends of its interval, each head x measure; NaN where nothing is known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.sums / self.weights
        unknown = self.weights[0] == 0
        filled = np.where(np.isnan(means[1:]), means[:1], means[1:])
        low, high = np.percentile(np.where(unknown, 0, filled), (2.5, 97.5), axis=0)
        return (means[0], np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))


def _rows_sql() -> str:
    scores = ", ".join(f"s.{m.name}::DOUBLE AS {m.name}" if m.name != "flip"
                       else "s.flip::INT::DOUBLE AS flip" for m in IMPORTANCE)
    strengths = ", ".join(f"t.{m.name}::DOUBLE AS {m.name}" for m in STRENGTH)
    return (f"SELECT {scores}, {strengths} FROM head_scores s "
            "JOIN head_strength t USING (model, image, layer, head) "
            "WHERE model = ? AND image BETWEEN ? AND ? AND ablation = 'zero' "
            "ORDER BY image, layer, head")


def _medians_sql() -> str:
    medians = ", ".join(f"median({'flip::INT' if m.name == 'flip' else m.name})::DOUBLE "
                        f"AS {m.name}" for m in SUMMARISED)
    return (f"SELECT {medians} FROM head_scores JOIN head_strength "
            "USING (model, image, layer, head) WHERE model = ? AND ablation = 'zero' "
            "GROUP BY layer, head ORDER BY layer, head")


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy(), dtype=float)
