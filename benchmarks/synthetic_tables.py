"""The tables of a synthetic store that say what heads do: Arrow tables from a model's numbers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy.stats import rankdata

from benchmarks.synthetic_world import GRID, PATCH_PIXELS, PREFIX, Nature, Numbers, Size
from store.schema import (
    ABLATIONS,
    CLEAN_PASS,
    IMPORTANCE,
    MODES,
    OUTCOMES,
    RANKED,
    STRENGTH,
    SUMMARISED,
    TABLES,
    direction,
)
from store.writer import to_table


def repeated(value: object, kind: pa.DataType, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), count)


def lists(values: np.ndarray, kind: pa.DataType | None = None) -> pa.ListArray:
    """[row, n] as a list for each row."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    width = values.shape[-1]
    offsets = np.arange(len(flat) // width + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def grain(nature: Nature, ids: np.ndarray) -> dict[str, object]:
    """Columns of a row per image and head."""
    size = nature.size
    return {"model": repeated(nature.name, pa.string(), len(ids) * size.all_heads),
            "image": np.repeat(ids, size.all_heads), "layer": np.tile(size.layer_of, len(ids)),
            "head": np.tile(size.head_of, len(ids))}


def head_scores(nature: Nature, ids: np.ndarray, found: Numbers, ablation: str = "zero"
                ) -> pa.Table:
    columns = grain(nature, ids)
    return to_table("head_scores", {
        **columns, "ablation": repeated(ablation, pa.string(), len(ids) * nature.size.all_heads),
        **{m.name: found[m.name].ravel() for m in IMPORTANCE}})


def head_strength(nature: Nature, ids: np.ndarray, found: Numbers) -> pa.Table:
    return to_table("head_strength", {
        **grain(nature, ids), **{m.name: found[m.name].ravel() for m in STRENGTH},
        **{name: lists(found[name]) for name in ("hop_strength", "hop_mass")}})


def model_row(nature: Nature, sampled: int) -> pa.Table:
    size = nature.size
    row = {
        "model": nature.name, "spec": f"made-up:{nature.number}", "family": "VisionTransformer",
        "engine": "fast", "precision": "float32", "selftest": "[]", "reference_images": sampled,
        "resample_draws": 1, "layers": size.layers, "heads": size.heads, "grid_h": GRID,
        "grid_w": GRID, "patch": PATCH_PIXELS, "image_h": GRID * PATCH_PIXELS,
        "image_w": GRID * PATCH_PIXELS, "prefix_tokens": PREFIX, "class_token": True,
        "registers": 0, "parameters": 22_000_000, "classifier": "native", "classes": size.labels,
        "accuracy": float(nature.correct.mean()), "weights_sha256": f"{nature.number:064x}",
        "preprocessing": json.dumps({"input_size": [3, GRID * PATCH_PIXELS, GRID * PATCH_PIXELS],
                                     "crop_pct": 1.0, "crop_mode": "center"}),
        "versions": json.dumps({"made up": True})}
    return of_rows("models", [row])


def layer_rows(nature: Nature) -> pa.Table:
    return of_rows("layers", [
        {"model": nature.name, "layer": layer, "heads": nature.size.heads, "grid_h": GRID,
         "grid_w": GRID, "prefix_tokens": PREFIX, "class_token": True, "class_query": False}
        for layer in range(nature.size.layers)])


def predictions(nature: Nature) -> pa.Table:
    size, world = nature.size, nature.world
    return to_table("predictions", {
        "model": repeated(nature.name, pa.string(), size.images), "image": np.arange(size.images),
        "predicted": world.names[nature.predicted], "predicted_class": nature.predicted,
        "correct": nature.correct, "probability": nature.probability,
        "true_probability": nature.true_probability, "margin": 6 * nature.probability,
        "top5": top5(nature, nature.predicted, nature.probability),
        "x": nature.places[:, 0], "y": nature.places[:, 1]})


def top5(nature: Nature, first: np.ndarray, probability: np.ndarray) -> pa.Array:
    """The predicted class, then others, each half as probable as the one before."""
    steps = np.arange(5)
    classes = (np.asarray(first).reshape(-1, 1) + 3 * steps) % nature.size.labels
    rest = (1 - np.asarray(probability).reshape(-1, 1)) / 2 ** np.maximum(steps, 1)
    shares = np.where(steps == 0, np.asarray(probability).reshape(-1, 1), rest)
    flat = pa.StructArray.from_arrays(
        [pa.array(classes.ravel(), pa.int32()), pa.array(nature.world.names[classes.ravel()]),
         pa.array(shares.ravel(), pa.float32())], ["class", "name", "probability"])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(classes) + 1, dtype=np.int32) * 5), flat)


def embeddings(nature: Nature, ids: np.ndarray) -> pa.Table:
    """Coarse ones: nothing that is served reads them."""
    points = np.round(np.tile(nature.places[ids], 4))
    return to_table("embeddings", {"model": [nature.name] * len(ids), "image": ids,
                                   "embedding": lists(points), "logits": [None] * len(ids)})


def layer_scores(nature: Nature, ids: np.ndarray, found: Numbers) -> pa.Table:
    """A whole layer costs as much as its heads together."""
    size = nature.size
    each = {m.name: found[m.name].reshape(len(ids), size.layers, size.heads) for m in OUTCOMES}
    columns = {name: values.any(-1) if name == "flip" else values.sum(-1)
               for name, values in each.items()}
    drop = np.clip(columns["probability_drop"], -1, nature.probability[ids][:, None])
    columns |= {"probability_drop": drop, "probability": nature.probability[ids][:, None] - drop}
    return to_table("layer_scores", {
        "model": [nature.name] * len(ids) * size.layers, "image": np.repeat(ids, size.layers),
        "layer": np.tile(np.arange(size.layers), len(ids)),
        **{name: values.ravel() for name, values in columns.items()}})


def partial_pruning(nature: Nature, ids: np.ndarray, found: Numbers) -> pa.Table:
    """Each mode costs a share of what the whole head does."""
    share = np.array([0.0, 1.0, *np.linspace(0.9, 0.1, len(MODES) - 2)], np.float32)
    rows = len(ids) * nature.size.all_heads

    def parts(name: str) -> np.ndarray:
        return (found[name].astype(np.float32).reshape(rows, 1) * share).ravel()

    before = np.repeat(nature.probability[ids], nature.size.all_heads * len(MODES))
    after = np.clip(before - parts("probability_drop"), 0, 1)
    columns = {name: np.repeat(np.asarray(values), len(MODES))
               for name, values in grain(nature, ids).items() if name != "model"}
    return to_table("partial_pruning", {
        **columns, "model": repeated(nature.name, pa.string(), len(after)),
        "mode": np.tile(np.array(list(MODES)), rows), "probability": after,
        "js_divergence": parts("js_divergence"), "embedding_l2": parts("embedding_l2"),
        "top5": top5(nature, np.repeat(nature.predicted[ids], len(after) // len(ids)), after)})


def heads(nature: Nature, values: Numbers, patterns: dict[str, object]) -> pa.Table:
    """Summaries of [image, head] arrays of each measure; intervals of means are normal ones."""
    size = nature.size
    columns: dict[str, object] = {
        "model": [nature.name] * size.all_heads, "layer": size.layer_of, "head": size.head_of,
        "normalised_depth": size.layer_of / max(1, size.layers - 1),
        "images": np.full(size.all_heads, size.images)}
    for m in SUMMARISED:
        own = values[m.name]
        mean, half = own.mean(0), 1.96 * own.std(0) / np.sqrt(len(own))
        columns |= {f"{m.name}_mean": mean, f"{m.name}_median": np.median(own, axis=0),
                    f"{m.name}_low": mean - half, f"{m.name}_high": mean + half}
        if m in RANKED:
            rank = rankdata(-direction(m) * mean)
            columns |= {f"{m.name}_rank": rank, f"{m.name}_rank_low": np.maximum(1, rank - 3),
                        f"{m.name}_rank_high": np.minimum(len(rank), rank + 3)}
    return to_table("heads", {**columns, **patterns})


def head_ablations(nature: Nature, means: dict[str, Numbers], images: dict[str, int]) -> pa.Table:
    """`means`: by ablation, each measure's mean of every head."""
    size, ablations = nature.size, list(ABLATIONS)
    stacked = {m.name: np.stack([means[a][m.name] for a in ablations], 1).ravel()
               for m in OUTCOMES}
    return to_table("head_ablations", {
        "model": [nature.name] * size.all_heads * len(ablations),
        "layer": np.repeat(size.layer_of, len(ablations)),
        "head": np.repeat(size.head_of, len(ablations)),
        "ablation": ablations * size.all_heads,
        "images": [images[a] for a in ablations] * size.all_heads,
        **{f"{name}_mean": values for name, values in stacked.items()}})


def rank_agreement(nature: Nature, means: dict[str, Numbers], images: dict[str, int]) -> pa.Table:
    """Rank correlations of all pairs of (measure, ablation), over all heads."""
    rankings = [(m, a) for m in RANKED for a in ABLATIONS
                if a == "zero" or m.name not in CLEAN_PASS]
    ranks = np.stack([rankdata(-direction(m, a) * means[a][m.name]) for m, a in rankings])
    above, below = np.triu_indices(ranks.shape[1], 1)
    spearman = _cosines(ranks - ranks.mean(1, keepdims=True))
    kendall = _cosines(np.sign(ranks[:, above] - ranks[:, below]))
    pairs = list(itertools.combinations_with_replacement(range(len(rankings)), 2))
    first, second = ([rankings[pair[k]] for pair in pairs] for k in (0, 1))
    return to_table("rank_agreement", {
        "model": [nature.name] * len(pairs), "measure": [m.name for m, _ in first],
        "ablation": [a for _, a in first], "other_measure": [m.name for m, _ in second],
        "other_ablation": [a for _, a in second],
        "spearman": np.array([spearman[pair] for pair in pairs]),
        "kendall": np.array([kendall[pair] for pair in pairs]),
        "images": [min(images[a], images[b])
                   for (_, a), (_, b) in zip(first, second, strict=True)]})


def _cosines(rows: np.ndarray) -> np.ndarray:
    """Of every two rows; NaN with a row of zeros, a measure by which all heads are alike."""
    length = np.sqrt(np.square(rows).sum(1))
    with np.errstate(invalid="ignore"):
        return rows @ rows.T / length / length[:, None]


def of_rows(name: str, rows: Sequence[dict]) -> pa.Table:
    """Rows of a table; what a row lacks is NULL."""
    return to_table(name, {c.name: [row.get(c.name) for row in rows]
                           for c in TABLES[name].columns})


def image_rows(size: Size, label: np.ndarray, names: np.ndarray, ids: np.ndarray,
               thumbnails: Sequence[bytes]) -> pa.Table:
    side, count = GRID * PATCH_PIXELS, len(ids)
    return to_table("images", {
        "image": ids, "path": [f"{names[label[i]]}/{i:06d}.jpg" for i in ids],
        "folder": repeated("made up", pa.string(), count), "label": names[label[ids]],
        "width": np.full(count, side), "height": np.full(count, side),
        "sha256": [f"{(i * 2654435761 + size.seed) % 2 ** 32:064x}" for i in ids.tolist()],
        "thumbnail": [thumbnails[i % len(thumbnails)] for i in label[ids]]})
