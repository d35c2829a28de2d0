"""The made-up world of a synthetic store: images with labels, and models whose heads differ.

All numbers of a model come from `Nature`, what is true of its heads, and of an image's label and
ease; rows of head and image add noise to that. Arrays are [image, head], heads in order of layer
and head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from store.schema import IMPORTANCE, STRENGTH

GRID, PREFIX, PATCH_PIXELS = 14, 1, 16
HOPS = GRID
LOOKS = ("local", "offset", "row", "column", "global", "sink")
"""What heads look like; also the names of their patterns."""

Numbers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Size:
    """How much is made up. `shard`: images in a part of the store."""

    models: int = 10
    layers: int = 12
    heads: int = 12
    images: int = 10_000
    shard: int = 1000
    seed: int = 0

    @property
    def names(self) -> list[str]:
        return [f"made-up-{i:02d}" for i in range(self.models)]

    @property
    def all_heads(self) -> int:
        return self.layers * self.heads

    @property
    def labels(self) -> int:
        return min(100, max(10, self.images // 100))

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The images of every part, by its name."""
        return {f"{k:05d}": np.arange(start, min(start + self.shard, self.images))
                for k, start in enumerate(range(0, self.images, self.shard))}

    @property
    def layer_of(self) -> np.ndarray:
        return np.repeat(np.arange(self.layers), self.heads)

    @property
    def head_of(self) -> np.ndarray:
        return np.tile(np.arange(self.heads), self.layers)


class World:
    """The images: `label` and `ease` (0..1: how easily they are recognised)."""

    def __init__(self, size: Size) -> None:
        rng = np.random.default_rng(size.seed)
        self.size = size
        self.label = rng.integers(0, size.labels, size.images)
        self.ease = rng.beta(3, 1.5, size.images).astype(np.float32)
        self.names = np.array([f"class {i:02d}" for i in range(size.labels)])


class Nature:
    """What is true of one model: of its heads [head], and of what it predicts [image]."""

    def __init__(self, world: World, number: int) -> None:
        size = world.size
        rng = np.random.default_rng((size.seed, number))
        heads, depth = size.all_heads, size.layer_of / max(1, size.layers - 1)
        self.world, self.size, self.number, self.name = world, size, number, size.names[number]
        self.look = rng.integers(0, len(LOOKS), heads)
        self.weight = rng.lognormal(-4.5, 1, heads).astype(np.float32)
        self.taste = rng.gamma(0.5, 2, (heads, size.labels)).astype(np.float32)
        self.reach = (0.6 + 5 * depth + rng.gamma(1.5, 1, heads)).astype(np.float32)
        self.sink = rng.beta(1, 12, heads).astype(np.float32)
        self.base = rng.uniform(0.1, 0.9, (heads, 4)).astype(np.float32)
        self._predict(rng)

    def _predict(self, rng: np.random.Generator) -> None:
        """Predictions, and a map in which images of a label lie together."""
        world, count = self.world, self.size.images
        self.correct = rng.random(count) < 0.35 + 0.6 * world.ease
        other = (world.label + rng.integers(1, self.size.labels, count)) % self.size.labels
        self.predicted = np.where(self.correct, world.label, other)
        self.probability = np.clip(0.25 + 0.7 * world.ease + rng.normal(0, 0.08, count),
                                   0.05, 0.999).astype(np.float32)
        centres = rng.uniform(-60, 60, (self.size.labels, 2))
        drawn_to = np.where(rng.random(count) < 0.8, world.label, self.predicted)
        self.places = (centres[drawn_to] + rng.normal(0, 5, (count, 2))).astype(np.float32)

    @cached_property
    def true_probability(self) -> np.ndarray:
        return np.where(self.correct, self.probability, (1 - self.probability) / 3)

    def rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((self.size.seed, self.number, *what))


def importance(nature: Nature, ids: np.ndarray, rng: np.random.Generator) -> Numbers:
    """Every importance measure: an effect for each head, larger on the labels that it is for."""
    label, ease = nature.world.label[ids], nature.world.ease[ids][:, None]
    shape = len(ids), nature.size.all_heads

    def noise(scale: float) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    effect = (nature.weight * nature.taste[:, label].T * (1.3 - ease)
              * (1 + 0.4 * np.abs(noise(1))))
    before = nature.probability[ids][:, None]
    after = np.clip(before - np.tanh(effect) - noise(0.006), 0, 1)
    drop = before - after
    true = np.where(nature.correct[ids][:, None], drop, -0.3 * drop + noise(0.004))
    known = nature.true_probability[ids][:, None]
    true = np.clip(true, known - 1, known)
    gradient = np.abs(effect * (1 - before) + noise(0.004))
    changed = np.abs(1.5 * effect + noise(0.01))
    return {
        "probability": after, "probability_drop": drop, "true_probability_drop": true,
        "loss_increase": np.log((known + 1e-4) / (known - true + 1e-4)),
        "margin_drop": 8 * effect + noise(0.1), "js_divergence": np.clip(
            0.4 * drop * drop + np.abs(noise(0.002)), 0, np.log(2)),
        "flip": drop > 0.45 * before, "embedding_cosine": np.clip(changed ** 2 / 2, 0, 2),
        "embedding_l2": changed, "layer_cls_l2": 0.7 * changed + np.abs(noise(0.01)),
        "layer_patch_l2": 0.5 * changed + np.abs(noise(0.01)),
        "confidence": np.clip(0.1 + 0.5 * nature.base[:, 0] + noise(0.03), 0.01, 1),
        "direct_logit": 4 * effect * (nature.base[:, 1] - 0.2) + noise(0.05),
        "gate_gradient": gradient, "taylor": gradient * np.sign(noise(1) + 0.5)}


def strength(nature: Nature, ids: np.ndarray, rng: np.random.Generator) -> Numbers:
    """Every strength measure, and both profiles [image, head, hop], which belong together."""
    size = nature.size
    shape = len(ids), size.all_heads

    def noise(scale: float, *more: int) -> np.ndarray:
        return rng.standard_normal((*shape, *more), np.float32) * np.float32(scale)

    reach = nature.reach * np.exp(noise(0.25) + 0.2 * (nature.world.label[ids] % 5 - 2)[:, None]
                                  / 2, dtype=np.float32)
    mean = np.exp(-np.arange(HOPS, dtype=np.float32) / reach[..., None]) * (1 + 0.1 * np.abs(
        noise(1, HOPS)))
    share = np.clip(nature.sink + noise(0.02), 0, 0.98)
    mass = mean * (PAIRS / GRID ** 2)
    mass *= ((1 - share) / mass.sum(-1))[..., None]
    profile = mass / (PAIRS / GRID ** 2)
    part = profile / profile.sum(-1, keepdims=True)
    distance = mass @ (np.arange(HOPS, dtype=np.float32) * 1.1 / GRID)
    at_class = np.clip(nature.base[:, 2] + noise(0.08), 0, 1)
    return {
        "hop_entropy": -(part * np.log(part)).sum(-1),
        "row_entropy": np.clip(1.2 * np.log1p(reach) + noise(0.1), 0, np.log(GRID ** 2 + PREFIX)),
        "distance": distance, "distance_renormalised": distance / (1 - share),
        "cls_to_patch": 1 - at_class, "cls_self": at_class, "patch_to_cls": share,
        "patch_self": mass[..., 0], "prefix_share": share,
        "register_share": np.full(shape, np.nan, np.float32),
        "nmi": np.clip(0.8 / reach + noise(0.02), 0, 1),
        "sink": 1 + 40 * nature.base[:, 3] ** 4 + np.abs(noise(1)),
        "hop_strength": profile, "hop_mass": mass}


def _pairs() -> np.ndarray:
    """How many ordered pairs of patches are k apart, k = 0..HOPS-1."""
    row, column = np.divmod(np.arange(GRID ** 2), GRID)
    apart = np.maximum(np.abs(row[:, None] - row), np.abs(column[:, None] - column))
    return np.bincount(apart.ravel(), minlength=HOPS).astype(np.float32)


PAIRS = _pairs()
MEASURES = tuple(m.name for m in (*IMPORTANCE, *STRENGTH))
