"""A store with the real schema and made-up numbers, for tests that need no trained model.

Three models: `alpha` (class token, 7x7, classifier), `beta` (no class token, 14x14, classifier),
`gamma` (class token and registers, 6x8 grid, no classifier). Head (0, 1) of `alpha` is the vital
one: pruning it costs 0.6 on images labelled "cat" and nothing on the others.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from precompute.summaries import summarise
from store import places
from store.reader import open_store
from store.schema import IMPORTANCE, STRENGTH
from store.writer import StoreWriter, to_table

LABELS = ("bird", "cat", "dog", "fish")
PART = 32
MODELS = {
    "alpha": dict(layers=6, heads=4, grid=(7, 7), class_token=True, registers=0, native=True),
    "beta": dict(layers=8, heads=3, grid=(14, 14), class_token=False, registers=0, native=True),
    "gamma": dict(layers=4, heads=6, grid=(6, 8), class_token=True, registers=4, native=False),
}


def make_store(path: Path, images: int = 60, models: dict[str, dict] = MODELS) -> Path:
    """Write the store and return its path."""
    rng = np.random.default_rng(7)
    writer = StoreWriter(path)
    labels = np.array(LABELS)[np.arange(images) % len(LABELS)]
    for start in range(0, images, PART):
        ids = np.arange(start, min(start + PART, images))
        writer.write_file(f"images/{start // PART:05d}.parquet", _images(ids, labels[ids], rng))
    for name, shape in models.items():
        folder = f"models/{places.slug(name)}"
        writer.write_file(f"{folder}/model.parquet", _model(name, **shape))
        writer.write_file(f"{folder}/predictions.parquet", _predictions(
            name, images, labels, rng, shape["native"]))
        for start in range(0, images, PART):
            ids = np.arange(start, min(start + PART, images))
            part = f"{start // PART:05d}"
            writer.write_unit(f"{folder}/clean/{part}", {"embeddings": _embeddings(name, ids, rng)})
            writer.write_unit(f"{folder}/heads/{part}", {
                "head_scores": _scores(name, ids, labels[ids], rng, **shape),
                "head_strength": _strength(name, ids, rng, **shape)})
        writer.write_file(f"{folder}/heads.parquet", summarise(open_store(path), name))
    return path


def _images(ids: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> pa.Table:
    def webp() -> bytes:
        pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((48, 48)).save(buffer, "WEBP")
        return buffer.getvalue()

    return to_table("images", {
        "image": ids,
        "path": [f"{label}/{i:04d}.png" for i, label in zip(ids, labels, strict=True)],
        "folder": ["/made/up"] * len(ids), "label": list(labels), "width": [48] * len(ids),
        "height": [48] * len(ids), "sha256": [f"{i:064x}" for i in ids],
        "thumbnail": [webp() for _ in ids]})


def _model(name: str, layers: int, heads: int, grid: tuple[int, int], class_token: bool,
           registers: int, native: bool) -> pa.Table:
    row = {
        "model": name, "spec": f"made-up:{name}", "family": "VisionTransformer", "engine": "tail",
        "layers": layers, "heads": heads, "grid_h": grid[0], "grid_w": grid[1], "patch": 4,
        "image_h": grid[0] * 4, "image_w": grid[1] * 4, "prefix_tokens": class_token + registers,
        "class_token": class_token, "registers": registers, "parameters": 1000,
        "classifier": "native" if native else "none", "classes": len(LABELS) if native else None,
        "accuracy": 0.75 if native else None, "weights_sha256": "0" * 64,
        "preprocessing": json.dumps({"input": list(grid)}), "versions": json.dumps({}),
    }
    return to_table("models", {k: [v] for k, v in row.items()})


def _predictions(name: str, images: int, labels: np.ndarray, rng: np.random.Generator,
                 native: bool) -> pa.Table:
    where = np.array([LABELS.index(label) for label in labels])
    angle = where * np.pi / 2
    correct = rng.random(images) < 0.75
    predicted = np.where(correct, where, (where + 1) % len(LABELS))
    probability = rng.uniform(0.4, 1.0, images)

    def known(values: object) -> object:
        return list(values) if native else [None] * images

    return to_table("predictions", {
        "model": [name] * images, "image": np.arange(images),
        "predicted": known(np.array(LABELS)[predicted]), "predicted_class": known(predicted),
        "correct": known(correct), "probability": known(probability),
        "true_probability": known(np.where(correct, probability, 1 - probability)),
        "margin": known(probability * 5),
        "top5": known([[{"class": int(c), "name": LABELS[c], "probability": float(p)},
                        {"class": int((c + 1) % 4), "name": LABELS[(c + 1) % 4],
                         "probability": float(1 - p)}]
                       for c, p in zip(predicted, probability, strict=True)]),
        "x": 10 * np.cos(angle) + rng.normal(size=images),
        "y": 10 * np.sin(angle) + rng.normal(size=images)})


def _embeddings(name: str, ids: np.ndarray, rng: np.random.Generator) -> pa.Table:
    return to_table("embeddings", {"model": [name] * len(ids), "image": ids,
                                   "embedding": list(rng.normal(size=(len(ids), 8))),
                                   "logits": [None] * len(ids)})


def _grain(name: str, ids: np.ndarray, layers: int, heads: int) -> dict[str, object]:
    image, layer, head = (a.ravel() for a in np.meshgrid(
        ids, np.arange(layers), np.arange(heads), indexing="ij"))
    return {"model": [name] * len(image), "image": image, "layer": layer, "head": head}


def _scores(name: str, ids: np.ndarray, labels: np.ndarray, rng: np.random.Generator, layers: int,
            heads: int, native: bool, class_token: bool, **_: object) -> pa.Table:
    grain = _grain(name, ids, layers, heads)
    n = len(grain["image"])
    drop = np.abs(rng.normal(0, 0.02, n))
    if name == "alpha":
        cat = np.repeat(labels == "cat", layers * heads)
        drop = np.where((grain["layer"] == 0) & (grain["head"] == 1) & cat, 0.6, drop)
    needs_classifier = {"probability", "probability_drop", "true_probability_drop",
                        "loss_increase", "margin_drop", "js_divergence", "flip", "direct_logit"}
    columns: dict[str, object] = {m.name: drop * rng.uniform(0.8, 1.2, n) for m in IMPORTANCE}
    columns |= {"probability": 0.9 - drop, "probability_drop": drop, "flip": drop > 0.3}
    if not native:
        columns |= dict.fromkeys(needs_classifier, [None] * n)
    if not class_token:
        columns["layer_cls_l2"] = [None] * n
    return to_table("head_scores", {**grain, "ablation": ["zero"] * n, **columns})


def _strength(name: str, ids: np.ndarray, rng: np.random.Generator, layers: int, heads: int,
              grid: tuple[int, int], class_token: bool, registers: int, **_: object) -> pa.Table:
    grain = _grain(name, ids, layers, heads)
    n, hops = len(grain["image"]), max(grid)
    reach = (grain["head"] + 1) * 0.5 + grain["layer"]
    profile = np.exp(-np.arange(hops)[None] / reach[:, None]) * rng.uniform(0.9, 1.1, (n, hops))
    share = profile / profile.sum(1, keepdims=True)
    entropy = -(share * np.log(share)).sum(1)
    columns: dict[str, object] = {m.name: rng.uniform(0, 1, n) for m in STRENGTH}
    columns |= {"hop_entropy": entropy, "hop_strength": list(profile / hops),
                "hop_mass": list(share)}
    if not class_token:
        columns |= dict.fromkeys(("cls_to_patch", "cls_self", "patch_to_cls"), [None] * n)
    if not registers:
        columns["register_share"] = [None] * n
    return to_table("head_strength", {**grain, **columns})
