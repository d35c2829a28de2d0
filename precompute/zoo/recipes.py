"""The zoo's models: a new one is a new row."""

from dataclasses import dataclass
from typing import Any


def vit(**changes: Any) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer: one small trunk, and what differs."""
    trunk = {"embed_dim": 64, "depth": 6, "num_heads": 4, "mlp_ratio": 2.0}
    return {"img_size": 28, "in_chans": 1, "num_classes": 10} | trunk | changes


@dataclass(frozen=True)
class Stage:
    """Epochs with one share of the patches dropped; the cosine runs over all stages of a model."""

    epochs: float
    patch_drop: float = 0.0
    batch: int = 128


@dataclass(frozen=True)
class Recipe:
    name: str
    title: str
    architecture: dict[str, Any]
    stages: tuple[Stage, ...]
    start: str | None = None  # a model trained before (an earlier row), resampled
    teachers: tuple[str, ...] = ()  # earlier rows, whose mean probabilities become targets
    teaching: float = 0.6  # the teachers' share of the target
    muon_lr: float = 0.005
    muon_decay: float = 0.2  # more: flatter attention; none: heads sharpen to about 1-2 nats
    adam_lr: float = 4e-3
    smoothing: float = 0.05
    shift: int = 0  # pixels; flips are always on
    seed: int = 0
    stop: int | None = None  # steps after which the run was cut, its cosine unfinished
    bundled: bool = True  # False: only a later row's start


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "fashion_cls7",
            "ViT, class token, 7x7 grid",
            vit(patch_size=4, class_token=True, reg_tokens=0, global_pool="token"),
            (Stage(8),),
            seed=1,
        ),
        Recipe(
            "fashion_avg7",
            "ViT, average pooling without a class token, 7x7 grid",
            vit(patch_size=4, class_token=False, reg_tokens=0, global_pool="avg"),
            (Stage(8),),
            muon_lr=0.003,
            muon_decay=0.0,
            adam_lr=5e-3,
            seed=2,
        ),
        Recipe(
            "fashion_reg7",
            "ViT, class token and 4 registers, 7x7 grid",
            vit(patch_size=4, class_token=True, reg_tokens=4, global_pool="token"),
            (Stage(7.5),),
            muon_decay=0.1,
            seed=3,
        ),
        Recipe(
            "fashion_cls14_first",
            "the first part of fashion_cls14, mostly with patches dropped",
            vit(patch_size=2, class_token=True, reg_tokens=0, global_pool="token"),
            (Stage(2.5, patch_drop=0.7), Stage(1, patch_drop=0.5), Stage(1.2, batch=32)),
            start="fashion_cls7",
            teachers=("fashion_cls7",),
            muon_lr=0.003,
            muon_decay=0.0,
            adam_lr=2e-3,
            seed=4,
            stop=1691,
            bundled=False,
        ),
        Recipe(
            "fashion_cls14",
            "ViT, class token, 14x14 grid",
            vit(patch_size=2, class_token=True, reg_tokens=0, global_pool="token"),
            (Stage(0.6, batch=32),),
            start="fashion_cls14_first",
            teachers=("fashion_cls7",),
            muon_lr=0.0015,
            muon_decay=0.0,
            adam_lr=1e-3,
            seed=5,
        ),
    )
}
