"""How good a pattern space is: tests on what it was not fitted on, beside simpler spaces.

Each makes results for the autoencoder and for the principal components, which
`precompute.space.verdicts` puts in words. What cannot be tested (one model, one image, no second
image size) has no results.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score, pairwise_distances

from precompute.space.autoencoder import fit_autoencoder
from precompute.space.clusters import HEADS, fit_clusters, runs
from precompute.space.coders import Coder, divergence, fit_components, fit_mean, roots
from precompute.space.inputs import Means, Single
from precompute.space.space import Space

SIZES = (4, 8, 16, 32)
"""Numbers of principal components to compare with, beside as many as the space has."""
PART = 0.7
"""Of the images: what is fitted on when the others are held out."""
STEPS, FEWER_STEPS = 1500, 750
"""Of fits without some images, and without a model: fewer than of the space itself."""
MODELS = 4
"""Where a store has more, only the first MODELS - 1 are held out in turn."""
NEIGHBOURS = 10
"""Of a head on the map, that should be neighbours by pattern."""
REPLICATES, ENDS = 500, (2.5, 97.5)
SEED, SEEDS = 0, 10


@dataclass(frozen=True)
class Result:
    """A number, its interval (NaN without one), and what chance would give (NaN likewise)."""

    space: str
    value: float
    low: float = np.nan
    high: float = np.nan
    chance: float = np.nan
    detail: str = ""


@dataclass(frozen=True)
class Trial:
    """A space on trial. `fitted_on` are patterns of single images, `heads` the mean patterns of
    all models' heads, `twins` pairs of models with the same weights."""

    space: Space
    fitted_on: Single
    heads: Means
    twins: tuple[tuple[str, str], ...] = ()

    @cached_property
    def held_out(self) -> np.ndarray:
        """Which patterns are of the images that a refit does without."""
        images = np.unique(self.fitted_on.image)
        drawn = np.random.default_rng(SEED).permutation(images)
        return np.isin(self.fitted_on.image, drawn[max(1, round(PART * len(images))):])

    @cached_property
    def refit(self) -> Mapping[str, Coder]:
        """The coders, fitted again without the images held out."""
        return self.fit(~self.held_out, STEPS)

    def fit(self, which: np.ndarray, steps: int) -> Mapping[str, Coder]:
        """The coders that these of the patterns make."""
        kind, latent = self.space.kind, self.space.latent
        shares = self.fitted_on.where(which).shares
        return {"autoencoder": fit_autoencoder(kind, shares, latent, steps=steps),
                "pca": fit_components(kind, shares, latent), "mean": fit_mean(kind, shares)}


def held_out_images(trial: Trial) -> Iterator[Result]:
    """KL of reconstructions of images that the coders were not fitted on."""
    if not trial.held_out.any():
        return
    unseen = trial.fitted_on.where(trial.held_out)
    yield from _errors(trial, trial.refit, unseen)
    seen = trial.fitted_on.where(~trial.held_out).shares
    for size in SIZES:
        if size != trial.space.latent:
            coder = fit_components(trial.space.kind, seen, size)
            yield from _errors(trial, {"pca": coder}, unseen, f"{size} numbers")


def held_out_model(trial: Trial) -> Iterator[Result]:
    """KL of reconstructions of a model's heads where the coders were fitted on the others'."""
    models = trial.fitted_on.models
    tried = models if len(models) <= MODELS else models[:MODELS - 1]
    for model in tried if len(models) > 1 else ():
        own = trial.fitted_on.model == model
        yield from _errors(trial, trial.fit(~own, FEWER_STEPS), trial.fitted_on.where(own), model)


def _errors(trial: Trial, coders: Mapping[str, Coder], patterns: Single,
            detail: str = "") -> Iterator[Result]:
    for name, coder in coders.items():
        decoded = coder.decode(coder.encode(patterns.shares))
        errors = divergence(trial.space.kind, patterns.shares, decoded)
        yield Result(name, *_mean(errors, patterns.image), detail=detail)


def same_head(trial: Trial) -> Iterator[Result]:
    """How often the pattern nearest to a head's, among those of its model on other images, is of
    the same head; on images that the coders were not fitted on."""
    unseen = trial.fitted_on.where(trial.held_out)
    if len(np.unique(unseen.image)) < 2:
        return
    for space in trial.space.coders:
        found = [_hits(trial.refit[space], unseen.where(unseen.model == model))
                 for model in unseen.models]
        hits, chances, images = (np.concatenate(values) for values in zip(*found, strict=True))
        yield Result(space, *_mean(hits, images), chance=float(chances.mean()))


def _hits(coder: Coder, patterns: Single) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each pattern's nearest is of the same head, the chance that it is, and its image;
    patterns that have no fellow on another image do not count."""
    far = pairwise_distances(coder.encode(patterns.shares))
    other = patterns.image[:, None] != patterns.image
    same = (patterns.owner[:, None] == patterns.owner) & other
    able = same.any(1)
    nearest = np.where(other, far, np.inf).argmin(1)
    chance = same.sum(1) / np.maximum(other.sum(1), 1)
    return same[range(len(far)), nearest][able], chance[able], patterns.image[able]


def other_size(trial: Trial) -> Iterator[Result]:
    """How often the head nearest to a head, among those of the same weights at another image size,
    is the same head."""
    for one, other in trial.twins:
        here, there = (trial.heads.where(trial.heads.model == model) for model in (one, other))
        same = (here.layer[:, None] == there.layer) & (here.head[:, None] == there.head)
        for space, coder in trial.space.coders.items():
            far = pairwise_distances(coder.encode(here.shares), coder.encode(there.shares))
            hits = same[range(len(far)), far.argmin(1)]
            yield Result(space, *_mean(hits, np.arange(len(hits))), chance=float(same.mean()),
                         detail=f"{one} in {other}")


def stability(trial: Trial) -> Iterator[Result]:
    """Adjusted Rand index of clusterings of the same heads: of single runs of k-means that differ
    in their seed, of two consensus clusterings, and of the space and one fitted on fewer images."""
    count = len(trial.space.clusters.centres)
    if not 1 < count < len(trial.heads):
        return
    for space, coder in trial.space.coders.items():
        latents = coder.encode(trial.heads.shares)
        single = runs(latents, count, SEED, SEEDS, part=1.0)
        yield _alike(space, single, "single runs")
        yield _alike(space, [fit_clusters(latents, seed, count).assign(latents)
                             for seed in (SEED + 1, SEED + 2)], "consensus")
        if trial.held_out.any():
            again = trial.refit[space].encode(trial.heads.shares)
            yield _alike(space, [fit_clusters(latents, SEED, count).assign(latents),
                                 fit_clusters(again, SEED, count).assign(again)], "refit")


def _alike(space: str, labels: Iterable[np.ndarray], detail: str) -> Result:
    found = [adjusted_rand_score(a, b) for a, b in itertools.combinations(labels, 2)]
    low, high = (min(found), max(found)) if len(found) > 1 else (np.nan, np.nan)
    return Result(space, float(np.mean(found)), low, high, 0.0, detail)


def trustworthy(trial: Trial) -> Iterator[Result]:
    """Whether neighbours in the plane are neighbours by pattern (`sklearn` trustworthiness, over
    the roots of the mean patterns), beside that of the same places in random order."""
    rng = np.random.default_rng(SEED)
    shares = rng.permutation(trial.heads.shares)[:HEADS]
    neighbours = min(NEIGHBOURS, (len(shares) - 1) // 2)
    if neighbours < 1:
        return
    patterns = roots(trial.space.kind, shares)
    for space, coder in trial.space.coders.items():
        places = trial.space.maps[space].place(coder.encode(shares))
        shuffled = rng.permutation(places)
        value, chance = (trustworthiness(patterns, xy, n_neighbors=neighbours)
                         for xy in (places, shuffled))
        yield Result(space, float(value), chance=float(chance))


def _mean(values: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """The mean, and the ends of its interval by bootstrap over groups."""
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(SEED).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), REPLICATES)
    low, high = np.percentile(drawn @ sums / (drawn @ counts), ENDS)
    return float(values.mean()), float(low), float(high)
