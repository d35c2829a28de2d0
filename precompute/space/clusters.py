"""Clusters of heads in a latent space, on which many runs of k-means agree.

A single run is unstable: heads shade into each other, and the seed decides where the cuts are. So
k-means runs many times, each time on another random part of the heads; two heads are together as
often as the runs that saw both say so; and average linkage cuts that agreement into clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin

from precompute.space.coders import Latents

RUNS, STARTS, PART = 20, 2, 0.8
"""Runs of k-means, how often each starts, and the part of the heads that it sees."""
COUNTS = (4, 6, 8, 10, 12)
"""Numbers of clusters tried."""
SEPARATE, SLACK, ALIKE = 0.9, 0.05, 0.6
"""Mean adjusted Rand index of runs with their consensus: what separate groups reach, what is as
good, and what is enough where heads shade into each other."""
HEADS = 3000
"""Heads looked at; of more, a random sample: agreement is a number for each pair."""


@dataclass(frozen=True)
class Clusters:
    """`agreement`: mean share of runs in which two heads of a cluster are together."""

    centres: Float[np.ndarray, "cluster latent"]
    agreement: Float[np.ndarray, cluster]

    def assign(self, latents: Latents) -> Int[np.ndarray, pattern]:
        """The nearest centre of each."""
        return pairwise_distances_argmin(latents, self.centres)


def fit_clusters(latents: Latents, seed: int = 0, count: int | None = None) -> Clusters:
    """`count` clusters, or as many as the runs agree on, by the mean ARI of a run and the
    consensus. If one of COUNTS reaches SEPARATE, there are groups: the largest number about as good
    as the best. Else heads shade into each other, and wherever they are cut, more clusters say
    more: the largest number that reaches ALIKE, or the best. The largest cluster comes first.

    Where there are not more different heads than COUNTS begins with, each is a cluster.
    """
    rng = np.random.default_rng(seed)
    rows = latents if len(latents) <= HEADS else latents[
        np.sort(rng.choice(len(latents), HEADS, replace=False))]
    different = len(np.unique(rows.round(5), axis=0))
    tried = [count] if count else [n for n in COUNTS if n < different] or [different]
    found = [_consensus(rows, count, seed) for count in tried]
    best = max(alike for alike, *_ in found)
    enough = best - SLACK if best >= SEPARATE else min(ALIKE, best)
    labels, agreement = [one for alike, *one in found if alike >= enough][-1]
    return _centred(rows, labels, agreement)


def _consensus(rows: Latents, count: int, seed: int) -> tuple[float, np.ndarray, np.ndarray]:
    """How alike the runs are to their consensus, its labels, and the agreement of each pair."""
    labels = runs(rows, count, seed)
    together = _agreement(labels)
    found = cut(together, count)
    alike = [adjusted_rand_score(found[run >= 0], run[run >= 0]) for run in labels]
    return float(np.mean(alike)), found, together


def runs(rows: Latents, count: int, seed: int, times: int = RUNS, part: float = PART,
         ) -> Int[np.ndarray, "run pattern"]:
    """Labels of k-means on random parts of the rows; -1 for those that a run did not see."""
    found = np.full((times, len(rows)), -1)
    for run in range(times):
        rng = np.random.default_rng((seed, run))
        size = max(count, round(part * len(rows)))
        seen = np.sort(rng.choice(len(rows), size, replace=False))
        found[run, seen] = KMeans(count, n_init=STARTS, random_state=run).fit_predict(rows[seen])
    return found


def _agreement(labels: Int[np.ndarray, "run pattern"]) -> Float[np.ndarray, "pattern other"]:
    """Of the runs that saw both, the share that put them together; 0 where none saw both."""
    together, seen = (np.zeros((labels.shape[1],) * 2, np.float32) for _ in range(2))
    for run in labels:
        there = (run >= 0).astype(np.float32)
        seen += np.outer(there, there)
        member = (run[:, None] == np.unique(run[run >= 0])).astype(np.float32)
        together += member @ member.T
    return together / np.maximum(seen, 1)


def cut(together: Float[np.ndarray, "pattern other"], count: int) -> Int[np.ndarray, pattern]:
    """Average linkage of 1 - agreement, cut into so many clusters."""
    if count == len(together):
        return np.arange(count)
    return AgglomerativeClustering(count, metric="precomputed", linkage="average").fit_predict(
        1 - together)


def _centred(rows: Latents, labels: np.ndarray, together: np.ndarray) -> Clusters:
    """Centres are the means of the clusters; a head belongs to the nearest. Largest first."""
    centres = np.stack([rows[labels == label].mean(0) for label in np.unique(labels)])
    nearest = pairwise_distances_argmin(rows, centres)
    sizes = np.bincount(nearest, minlength=len(centres))
    order = [label for label in np.argsort(-sizes, kind="stable") if sizes[label]]
    return Clusters(centres[order], np.array([_within(together, nearest == label)
                                              for label in order]))


def _within(together: np.ndarray, members: np.ndarray) -> float:
    """Mean agreement of two different members; a single one agrees with itself."""
    count = int(members.sum())
    if count == 1:
        return 1.0
    return float((together[np.ix_(members, members)].sum() - together.diagonal()[members].sum())
                 / (count * (count - 1)))
