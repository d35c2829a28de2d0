"""The model as a whole: embeddings, classifier, accuracy, predictions and the images' layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from precompute import probe
from precompute.batches import Batch
from precompute.classes import class_of_labels
from precompute.models import Vit
from precompute.plane import plane
from precompute.probe import Probe, fit_probe
from precompute.progress import say
from precompute.readout import Classifier, Native, Nothing
from precompute.register import complete_row, read_row
from precompute.sweep import embed
from store import places
from store.reader import Store
from store.writer import StoreWriter, to_table

MOST_FITTED = 20_000
"""Labelled images that a probe is fitted on at most; the others are unseen by all its folds."""


@torch.no_grad()
def embed_batch(name: str, vit: Vit, batch: Batch) -> pa.Table:
    """Rows of `embeddings`: what the classifier reads, and its logits if it is the model's own."""
    features = vit.model.forward_features(batch.pixels)
    embedding = embed(vit.model, features)
    logits = vit.model.forward_head(features) if vit.class_names else None
    return to_table("embeddings", {
        "model": [name] * len(batch.images), "image": batch.images,
        "embedding": list(embedding.float().cpu().numpy()),
        "logits": [None] * len(batch.images) if logits is None
        else list(logits.float().cpu().numpy())})


def choose_classifier(writer: StoreWriter, name: str, vit: Vit) -> Classifier:
    """The model's own classifier; else the probe it has, or one fitted now; else none.

    What was chosen once stays: labels that come later do not change a model's classifier.
    """
    home = places.model_folder(writer.path, name)
    file = home / "probe.npz"
    if vit.class_names or file.exists() or read_row(writer, name)["classifier"] == "none":
        return read_classifier(home, "native" if vit.class_names else
                               "probe" if file.exists() else "none", vit)
    clean = Store(writer.path, model=name).query(
        "FROM (SELECT image, label, embedding FROM embeddings JOIN images USING (image) "
        f"WHERE label IS NOT NULL ORDER BY sha256, image LIMIT {MOST_FITTED}) ORDER BY image")
    fitted = fit_probe(_matrix(clean["embedding"]), clean["image"].to_pylist(),
                       clean["label"].to_pylist()) if len(clean) else None
    if fitted is None:
        say(f"{name}: no classifier, and too few labels to fit a probe with; "
            "embedding measures only")
        return Nothing()
    with writer.lock():
        if not file.exists():  # another run may have been quicker
            writer.write_bytes(file.relative_to(writer.path), probe.to_bytes(fitted))
    return read_classifier(home, "probe", vit)


def read_classifier(home: Path, kind: str | None, vit: Vit) -> Classifier:
    """The classifier that a model's row names; none while the row is incomplete."""
    if kind == "native":
        return Native(vit.model)
    if kind == "probe":
        return probe.from_bytes((home / "probe.npz").read_bytes()).to(vit.device)
    return Nothing()


def class_map(store: Store, vit: Vit, classifier: Classifier) -> dict[str, int]:
    """Labels as classes of the classifier."""
    if isinstance(classifier, Probe):
        return {label: i for i, label in enumerate(classifier.names)}
    return class_of_labels(_labels(store), vit.class_names)


def tell_labels(store: Store, name: str, vit: Vit, class_of: Mapping[str, int]) -> None:
    """Say so where labels are no classes of the model's own classifier."""
    labels = _labels(store)
    lacking = len(set(labels) - set(class_of))
    if vit.class_names and lacking:
        say(f"{name}: {lacking} of {len(labels)} labels are no classes of its classifier; "
            "their true-class measures are NULL")


def _labels(store: Store) -> list[str]:
    return store.query("SELECT DISTINCT label FROM images WHERE label IS NOT NULL "
                       "ORDER BY label")["label"].to_pylist()


def describe(writer: StoreWriter, name: str, vit: Vit, classifier: Classifier,
             class_of: Mapping[str, int]) -> None:
    """Write `predictions`, unless they are there for all images, and complete the model's row."""
    home = places.model_folder(writer.path, name)
    with writer.lock():
        units = [home / "clean" / unit for unit in places.done_units(writer.path, name, "clean")]
        if _rows(home / "predictions.parquet") != sum(
                _rows(unit / "embeddings.parquet") for unit in units):
            writer.write_file((home / "predictions.parquet").relative_to(writer.path),
                              all_predictions(units, name, vit, classifier, class_of))
    (accuracy,) = Store(writer.path, tables=("predictions",), model=name).query(
        "SELECT avg(correct::INT)::FLOAT AS a FROM predictions")["a"].to_pylist()
    complete_row(writer, name, {
        "classifier": classifier.kind, "accuracy": accuracy,
        "classes": len(classifier.names) if isinstance(classifier, Probe)
        else len(vit.class_names) if vit.class_names else None})


def all_predictions(units: Sequence[Path], name: str, vit: Vit, classifier: Classifier,
                    class_of: Mapping[str, int]) -> pa.Table:
    """The rows of `predictions` for one model, from the units of its clean stage, one at a time."""
    sizes = [_rows(unit / "embeddings.parquet") for unit in units]
    where = plane(lambda: (_matrix(_clean(unit)["embedding"]) for unit in units), sum(sizes))
    ends = np.cumsum(sizes)
    return pa.concat_tables([
        predictions(name, vit, classifier, class_of, _clean(unit), where[end - size:end])
        for unit, size, end in zip(units, sizes, ends, strict=True)])


@torch.no_grad()
def predictions(name: str, vit: Vit, classifier: Classifier, class_of: Mapping[str, int],
                clean: pa.Table, places_2d: np.ndarray) -> pa.Table:
    """The rows of `predictions` for some images, from their clean embeddings."""
    images, labels = clean["image"].to_pylist(), clean["label"].to_pylist()
    columns: dict[str, object] = {"model": [name] * len(images), "image": images,
                                  "x": places_2d[:, 0], "y": places_2d[:, 1]}
    logits = _logits(classifier, clean, vit.device)
    if logits is None:
        empty = [None] * len(images)
        return to_table("predictions", columns | dict.fromkeys(
            ("predicted", "predicted_class", "correct", "probability", "true_probability",
             "margin", "top5"), empty))
    names = list(classifier.names) if isinstance(classifier, Probe) \
        else [aliases[0] for aliases in vit.class_names or ()]
    p = logits.double().softmax(-1)
    best, which = p.topk(min(5, p.shape[-1]))
    top = which[:, 0].tolist()
    true = [class_of.get(label) if label is not None else None for label in labels]
    return to_table("predictions", columns | {
        "predicted": [names[c] for c in top], "predicted_class": top,
        "correct": [None if t is None else t == c for t, c in zip(true, top, strict=True)],
        "probability": best[:, 0].numpy(),
        "true_probability": [None if t is None else float(p[i, t]) for i, t in enumerate(true)],
        "margin": _margins(logits), "top5": _top5(best, which, names)})


def _margins(logits: Tensor) -> list[float | None]:
    if logits.shape[-1] < 2:
        return [None] * len(logits)
    first, second = logits.topk(2).values.unbind(-1)
    return (first - second).tolist()


def _top5(best: Tensor, which: Tensor, names: list[str]) -> list[list[dict]]:
    return [[{"class": c, "name": names[c], "probability": p}
             for c, p in zip(classes, chances, strict=True)]
            for classes, chances in zip(which.tolist(), best.tolist(), strict=True)]


def _logits(classifier: Classifier, clean: pa.Table, device: torch.device) -> Tensor | None:
    if isinstance(classifier, Probe):
        embeddings = torch.tensor(_matrix(clean["embedding"]), device=device)
        return classifier.judge(embeddings, torch.tensor(clean["image"].to_pylist())).cpu()
    if clean["logits"].null_count:
        return None
    return torch.tensor(_matrix(clean["logits"]))


def _clean(unit: Path) -> pa.Table:
    """Image, embedding, logits and label of the images of a unit, in order."""
    embeddings = pq.read_table(unit / "embeddings.parquet")
    part = unit.parents[3] / "images" / f"{unit.name}.parquet"
    labels = pq.read_table(part, columns=["image", "label"]).sort_by("image")
    return embeddings.append_column("label", labels["label"])


def _rows(file: Path) -> int:
    """Of a Parquet file; none where there is no such file."""
    return pq.read_metadata(file).num_rows if file.exists() else 0


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1)
