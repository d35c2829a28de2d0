"""A store with the real schema and made-up numbers, for tests that need no trained model.

Three models: `alpha` (class token, 7x7, classifier), `beta` (no class token, 14x14, classifier),
`gamma` (class token and registers, 6x8 grid, no classifier). Head (0, 1) of `alpha` is the vital
one: pruning it costs 0.6 on images labelled "cat" and nothing on the others.

Every table has rows. What is derived from others is made by the functions that make it in real
stores; ablations other than zero, partial pruning and pairs are on a sample of the images.
"""

from __future__ import annotations

import ast
import atexit
import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from precompute.agreement import head_ablations, rank_agreement
from precompute.curves import pruning_areas, pruning_curves
from precompute.orders import Order, fractions, make_orders, split
from precompute.series import write_series
from precompute.summaries import summarise
from precompute.synergy import choose_pairs, head_pairs
from store import places
from store.reader import Store, open_store
from store.schema import ABLATIONS, IMPORTANCE, MODES, OUTCOMES, STRENGTH, TABLES
from store.writer import StoreWriter, to_table
from tests.synthetic_patterns import add_patterns, kept_attention, pattern_inputs

LABELS = ("bird", "cat", "dog", "fish")
PART = 32
SAMPLE = 10
NEEDS_CLASSIFIER = {"probability", "probability_drop", "true_probability_drop", "loss_increase",
                    "margin_drop", "js_divergence", "flip", "direct_logit", "gate_gradient",
                    "taylor"}
MODELS = {
    "alpha": dict(layers=6, heads=4, grid=(7, 7), class_token=True, registers=0, native=True),
    "beta": dict(layers=8, heads=3, grid=(14, 14), class_token=False, registers=0, native=True),
    "gamma": dict(layers=4, heads=6, grid=(6, 8), class_token=True, registers=4, native=False),
}


def make_store(path: Path, images: int = 60, models: dict[str, dict] = MODELS) -> Path:
    """Write the store and return its path. Made once in a process, then copied."""
    made = _made(images, repr(models))
    shutil.copytree(made, path, copy_function=_put, dirs_exist_ok=True)
    return path


def _put(file: str, place: str) -> None:
    """As a writer does it: who has read what was there before still has it."""
    shutil.copyfile(file, f"{place}.new")
    Path(f"{place}.new").replace(place)


@cache
def _made(images: int, models: str) -> Path:
    folder = tempfile.mkdtemp(prefix="headatlas-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _write_store(Path(folder) / "atlas", images, ast.literal_eval(models))


def _write_store(path: Path, images: int, models: dict[str, dict]) -> Path:
    rng = np.random.default_rng(7)
    writer = StoreWriter(path)
    labels = np.array(LABELS)[np.arange(images) % len(LABELS)]
    for start in range(0, images, PART):
        ids = np.arange(start, min(start + PART, images))
        writer.write_file(f"images/{start // PART:05d}.parquet", _images(ids, labels[ids], rng))
    for name, shape in models.items():
        folder = f"models/{places.slug(name)}"
        writer.write_file(f"{folder}/model.parquet", _model(name, **shape))
        writer.write_file(f"{folder}/layers.parquet", _layers(name, **shape))
        writer.write_file(f"{folder}/predictions.parquet", _predictions(
            name, images, labels, rng, shape["native"]))
        for start in range(0, images, PART):
            ids = np.arange(start, min(start + PART, images))
            part = f"{start // PART:05d}"
            writer.write_unit(f"{folder}/clean/{part}", {"embeddings": _embeddings(name, ids, rng)})
            writer.write_unit(f"{folder}/heads/{part}", {
                "head_scores": _scores(name, ids, labels[ids], rng, **shape),
                "head_strength": _strength(name, ids, rng, **shape),
                "pattern_inputs": pattern_inputs(name, ids, shape)})
        store = open_store(path)
        _write_samples(writer, store, name, labels, shape)
        _write_curves(writer, store, name, images)
        _write_derived(writer, store, name)
    add_patterns(writer, models, images)
    for name in models:
        write_series(writer, name)
    return path


def _write_samples(writer: StoreWriter, store: Store, name: str, labels: np.ndarray,
                   shape: dict) -> None:
    """What is measured on some images only, and whole layers, which are on all of them."""
    folder, rng = f"models/{places.slug(name)}", np.random.default_rng(8)
    ids = np.arange(0, len(labels), max(1, len(labels) // SAMPLE))
    others = [_scores(name, ids, labels[ids], rng, **shape, ablation=a)
              for a in ABLATIONS if a != "zero"]
    writer.write_unit(f"{folder}/ablations/00000", {"head_scores": pa.concat_tables(others)})
    writer.write_unit(f"{folder}/layer/00000", {"layer_scores": _layer_scores(
        name, np.arange(len(labels)), rng, **shape)})
    writer.write_unit(f"{folder}/partial/00000", {"partial_pruning": _partial(
        name, ids, rng, **shape)})
    writer.write_unit(f"{folder}/attention/00000", {
        "attention": kept_attention(name, len(labels), shape)})
    pairs = choose_pairs(store, name, heads=4)
    writer.write_unit(f"{folder}/pairs/00000", {"pair_scores": _pair_scores(
        name, ids, pairs, rng, shape["native"])})


def _write_curves(writer: StoreWriter, store: Store, name: str, images: int) -> None:
    """Points of pruning curves for the images that judge; a single image has none."""
    ranking, judging = split([(i, f"{i:064x}") for i in range(images)])
    if judging:
        orders = make_orders(store, name, ranking)
        folder = f"models/{places.slug(name)}"
        writer.write_unit(f"{folder}/curves/00000", {
            "pruning_points": _points(store, name, judging, orders)})
        store.refresh()
        curves = pruning_curves(store, name, len(ranking))
        writer.write_file(f"{folder}/pruning_curves.parquet", curves)
        writer.write_file(f"{folder}/pruning_areas.parquet", pruning_areas(curves, name))


def _write_derived(writer: StoreWriter, store: Store, name: str) -> None:
    store.refresh()
    for table, make in (("heads", summarise), ("head_ablations", head_ablations),
                        ("rank_agreement", rank_agreement), ("head_pairs", head_pairs)):
        writer.write_file(f"models/{places.slug(name)}/{table}.parquet", make(store, name))


def make_rows(path: Path, **tables: list[dict]) -> Store:
    """A store with these rows of these tables and no others; what a row lacks is NULL."""
    writer = StoreWriter(path)
    for name, rows in tables.items():
        model = f"models/{rows[0].get('model', 'some')}"
        file = TABLES[name].files.replace("models/*", model).replace("*", "some")
        writer.write_file(file, to_table(name, {
            c.name: [row.get(c.name) for row in rows] for c in TABLES[name].columns}))
    return open_store(path)


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
        "precision": "float32", "precision_error": None, "selftest": "[]",
        "reference_images": SAMPLE, "resample_draws": 4,
        "layers": layers, "heads": heads, "grid_h": grid[0], "grid_w": grid[1], "patch": 4,
        "image_h": grid[0] * 4, "image_w": grid[1] * 4, "prefix_tokens": class_token + registers,
        "class_token": class_token, "registers": registers, "parameters": 1000,
        "classifier": "native" if native else "none", "classes": len(LABELS) if native else None,
        "accuracy": 0.75 if native else None, "weights_sha256": "0" * 64,
        "preprocessing": json.dumps({"input": list(grid)}), "versions": json.dumps({}),
    }
    return to_table("models", {k: [v] for k, v in row.items()})


def _layers(name: str, layers: int, heads: int, grid: tuple[int, int], class_token: bool,
            registers: int, **_: object) -> pa.Table:
    row = {"model": name, "heads": heads, "grid_h": grid[0], "grid_w": grid[1],
           "prefix_tokens": class_token + registers, "class_token": class_token,
           "class_query": False, "window_h": None, "window_w": None, "shift_h": None,
           "shift_w": None, "places": None}
    return to_table("layers", {"layer": range(layers), **{k: [v] * layers for k, v in row.items()}})


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
            heads: int, native: bool, class_token: bool, ablation: str = "zero", **_: object,
            ) -> pa.Table:
    grain = _grain(name, ids, layers, heads)
    n = len(grain["image"])
    drop = np.abs(rng.normal(0, 0.02, n))
    if name == "alpha":
        cat = np.repeat(labels == "cat", layers * heads)
        drop = np.where((grain["layer"] == 0) & (grain["head"] == 1) & cat, 0.6, drop)
    columns: dict[str, object] = {m.name: drop * rng.uniform(0.8, 1.2, n) for m in IMPORTANCE}
    columns |= {"probability": 0.9 - drop, "probability_drop": drop, "flip": drop > 0.3}
    if not native:
        columns |= dict.fromkeys(NEEDS_CLASSIFIER, [None] * n)
    if not class_token:
        columns["layer_cls_l2"] = [None] * n
    return to_table("head_scores", {**grain, "ablation": [ablation] * n, **columns})


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


def _layer_scores(name: str, ids: np.ndarray, rng: np.random.Generator, layers: int,
                  native: bool, class_token: bool, **_: object) -> pa.Table:
    image, layer = (a.ravel() for a in np.meshgrid(ids, np.arange(layers), indexing="ij"))
    n = len(image)
    drop = rng.uniform(0, 0.3, n)
    columns: dict[str, object] = {m.name: drop for m in OUTCOMES}
    columns |= {"probability": 0.9 - drop, "flip": drop > 0.2}
    if not native:
        columns |= dict.fromkeys(NEEDS_CLASSIFIER & set(columns), [None] * n)
    if not class_token:
        columns["layer_cls_l2"] = [None] * n
    return to_table("layer_scores", {"model": [name] * n, "image": image, "layer": layer,
                                     **columns})


def _partial(name: str, ids: np.ndarray, rng: np.random.Generator, layers: int, heads: int,
             native: bool, class_token: bool, **_: object) -> pa.Table:
    image, layer, head, mode = (a.ravel() for a in np.meshgrid(
        ids, np.arange(layers), np.arange(heads), np.array(list(MODES)), indexing="ij"))
    change = rng.uniform(0, 0.2, len(image)) * (mode != "none")
    if not class_token:
        change = np.where(np.char.startswith(mode, "cls"), np.nan, change)
    judged = change if native else np.full(len(image), np.nan)
    top5 = [None if np.isnan(v) else [{"class": 0, "name": LABELS[0], "probability": 0.9 - v}]
            for v in judged]
    return to_table("partial_pruning", {
        "model": [name] * len(image), "image": image, "layer": layer, "head": head, "mode": mode,
        "probability": 0.9 - judged, "js_divergence": judged / 2, "embedding_l2": change,
        "top5": top5})


def _pair_scores(name: str, ids: np.ndarray, pairs: list, rng: np.random.Generator,
                 native: bool) -> pa.Table:
    first, second = (np.tile([pair[k] for pair in pairs], (len(ids), 1)) for k in (0, 1))
    n = len(first)
    change = rng.uniform(0, 0.3, n)
    judged = change if native else [None] * n
    return to_table("pair_scores", {
        "model": [name] * n, "image": np.repeat(ids, len(pairs)), "layer": first[:, 0],
        "head": first[:, 1], "other_layer": second[:, 0], "other_head": second[:, 1],
        "probability_drop": judged, "js_divergence": judged, "embedding_l2": change})


def _points(store: Store, name: str, judging: list[int], orders: list[Order]) -> pa.Table:
    """The more of the heads' own effects is pruned, the less is left."""
    effects = {(r["layer"], r["head"]): r["effect"] for r in store.query(
        "SELECT layer, head, avg(embedding_l2) AS effect FROM head_scores WHERE model = ? "
        "GROUP BY layer, head", [name]).to_pylist()}
    clean = store.query("SELECT image, correct, probability FROM predictions WHERE model = ? "
                        "ORDER BY image", [name]).to_pylist()
    pruned = fractions(len(effects))
    columns: dict[str, list] = {c.name: [] for c in TABLES["pruning_points"].columns}
    for order in orders:
        lost = np.cumsum([effects[head] for head in order.heads]) / sum(effects.values())
        for count in pruned:
            for image in judging:
                share, native = float(lost[count - 1]), clean[image]["probability"] is not None
                agree = share < (image * 0.37) % 1 + 1e-9 if native else None
                row = (name, image, order.measure, order.order, count, agree,
                       agree and clean[image]["correct"] if native else None,
                       clean[image]["probability"] * (1 - share) if native else None, share)
                for values, value in zip(columns.values(), row, strict=True):
                    values.append(value)
    return to_table("pruning_points", columns)
