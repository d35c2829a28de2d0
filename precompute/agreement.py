"""Do measures and ablations agree on which heads matter? `head_ablations` and `rank_agreement`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from precompute.summaries import (
    Means,
    Replicates,
    Values,
    as_table,
    bootstrap_weights,
    chunks,
    filled,
    floats,
    heads_of,
    images_of,
    number,
)
from store.reader import Store
from store.schema import ABLATIONS, CLEAN_PASS, OUTCOMES, RANKED, Column, direction
from store.writer import to_table

RESAMPLES = 50
CHUNK = 1024

Orders = Float[np.ndarray, "order head"]
Others = Float[np.ndarray, "other head"]
Pairs = Float[np.ndarray, "order other"]
Square = Float[np.ndarray, "ranking ranking"]


def head_ablations(store: Store, model: str) -> pa.Table:
    """Every head's mean outcomes under each ablation, over the images that have that ablation."""
    means = ", ".join(f"avg({number(m)}) AS {m.name}_mean" for m in OUTCOMES)
    return as_table("head_ablations", store.query(
        f"SELECT model, layer, head, ablation, count(*) AS images, {means} FROM head_scores "
        "WHERE model = $model GROUP BY model, layer, head, ablation "
        "ORDER BY layer, head, list_position($ablations::VARCHAR[], ablation)",
        {"model": model, "ablations": list(ABLATIONS)}))


@dataclass(frozen=True)
class Ranking:
    """A way to put the heads in order: the mean of a measure under an ablation."""

    measure: Column
    ablation: str


def rank_agreement(store: Store, model: str) -> pa.Table:
    """Rank correlations of every unordered pair of (measure, ablation), heads in the order in
    which they matter by their means over the images that have both ablations; of a pair of the
    same, the mean correlation with its own order on RESAMPLES bootstrap resamples.

    Images stream through in chunks; what is kept is heads x measures x resamples.
    """
    gathered = {a: _gather(store, model, a) for a in ABLATIONS}
    means = {a: found.means() for a, found in gathered.items()}
    rankings = [Ranking(m, a) for m in RANKED for a in ABLATIONS
                if (a == "zero" or m.name not in CLEAN_PASS) and _defined(m, means[a])]
    images = _counts(store, model)
    spearman, kendall = _all_pairs(rankings, means)
    for i, ranking in enumerate(rankings):
        spearman[i, i], kendall[i, i] = (
            _stability(ranking, means[ranking.ablation])
            if images[ranking.ablation, ranking.ablation] > 1 else (np.nan, np.nan))
    pairs = [(i, j) for i in range(len(rankings)) for j in range(i, len(rankings))]
    first, second = ([rankings[pair[k]] for pair in pairs] for k in (0, 1))
    return to_table("rank_agreement", {
        "model": [model] * len(pairs),
        "measure": [r.measure.name for r in first], "ablation": [r.ablation for r in first],
        "other_measure": [r.measure.name for r in second],
        "other_ablation": [r.ablation for r in second],
        "spearman": np.array([spearman[pair] for pair in pairs]),
        "kendall": np.array([kendall[pair] for pair in pairs]),
        "images": [images[a.ablation, b.ablation] for a, b in zip(first, second, strict=True)]})


def _gather(store: Store, model: str, ablation: str) -> Replicates:
    """Means over all images with this ablation (row 0), over resamples of them (1..RESAMPLES),
    then over those of them that also have each of ABLATIONS."""
    heads = heads_of(store, model)
    images = images_of(store, model, ablation)
    found = Replicates(len(heads), len(RANKED), RESAMPLES + len(ABLATIONS))
    for chunk in chunks(images, CHUNK):
        has = _has(store, model, chunk)
        found.add(_values(store, model, ablation, chunk, heads),
                  np.vstack([bootstrap_weights(chunk, RESAMPLES), has]))
    return found


def _has(store: Store, model: str, images: Sequence[int],
         ) -> Bool[np.ndarray, "ablation image"]:
    """Which ablations each image has."""
    rows = store.query("SELECT DISTINCT ablation, image FROM head_scores WHERE model = ? "
                       "AND image IN (SELECT unnest(?::INTEGER[]))", [model, images])
    has = np.zeros((len(ABLATIONS), len(images)), dtype=bool)
    for ablation, image in zip(*(rows[c].to_pylist() for c in rows.column_names), strict=True):
        has[list(ABLATIONS).index(ablation), np.searchsorted(images, image)] = True
    return has


def _values(store: Store, model: str, ablation: str, images: Sequence[int],
            heads: Sequence[tuple[int, int]]) -> Values:
    """What was measured, in RANKED's order."""
    columns = ", ".join(f"{number(m)} AS {m.name}" for m in RANKED)
    rows = store.query(f"SELECT image, layer, head, {columns} FROM head_scores WHERE model = ? "
                       "AND ablation = ? AND image BETWEEN ? AND ?",
                       [model, ablation, images[0], images[-1]])
    values = np.full((len(images), len(heads), len(RANKED)), np.nan)
    known = np.stack([floats(rows[m.name]) for m in RANKED], axis=-1)
    values[np.searchsorted(images, rows["image"].to_numpy()),
           np.searchsorted(_code(*np.array(heads).T),
                           _code(floats(rows["layer"]), floats(rows["head"])))] = known
    return values


def _code(layer: np.ndarray, head: np.ndarray) -> np.ndarray:
    """One number per head, in the order of (layer, head)."""
    return layer * 2.0 ** 20 + head


def _counts(store: Store, model: str) -> dict[tuple[str, str], int]:
    """How many images have both of two ablations."""
    rows = store.query(
        "WITH has AS (SELECT DISTINCT image, ablation FROM head_scores WHERE model = ?) "
        "SELECT a.ablation AS a, b.ablation AS b, count(*) AS n FROM has a JOIN has b "
        "USING (image) GROUP BY ALL", [model]).to_pylist()
    found = {(a, b): 0 for a in ABLATIONS for b in ABLATIONS}
    return found | {(r["a"], r["b"]): r["n"] for r in rows}


def _defined(measure: Column, means: Means) -> bool:
    return bool((~np.isnan(means[0, :, RANKED.index(measure)])).any())


def _orders(ranking: Ranking, means: Float[np.ndarray, "*replicate head measure"],
            ) -> Float[np.ndarray, "*replicate head"]:
    """A number per head that grows with how much it matters; in float32, as it is stored."""
    sign = direction(ranking.measure, ranking.ablation)
    return sign * means[..., RANKED.index(ranking.measure)].astype(np.float32).astype(float)


def _all_pairs(rankings: Sequence[Ranking], means: dict[str, Means]) -> tuple[Square, Square]:
    """Spearman and Kendall of all pairs of rankings, each over the images with both ablations."""
    spearman, kendall = (np.full((len(rankings), len(rankings)), np.nan) for _ in range(2))
    for a, b, mine, other in _blocks(rankings):
        first = np.stack([_orders(rankings[i], _shared(means[a], b)) for i in mine])
        second = np.stack([_orders(rankings[i], _shared(means[b], a)) for i in other])
        spearman[np.ix_(mine, other)], kendall[np.ix_(mine, other)] = correlate(first, second)
    return spearman, kendall


def _blocks(rankings: Sequence[Ranking],
            ) -> Iterator[tuple[str, str, list[int], list[int]]]:
    """The rankings of every two ablations, by number."""
    members = {a: [i for i, r in enumerate(rankings) if r.ablation == a] for a in ABLATIONS}
    present = [(a, numbers) for a, numbers in members.items() if numbers]
    for (a, mine), (b, other) in itertools.product(present, present):
        yield a, b, mine, other


def _shared(means: Means, other: str) -> Float[np.ndarray, "head measure"]:
    """The means over the images that have the other ablation too."""
    return means[1 + RESAMPLES + list(ABLATIONS).index(other)]


def _stability(ranking: Ranking, means: Means) -> tuple[float, float]:
    """Mean Spearman and Kendall of an order and those on resamples; NaN for a constant one."""
    orders = _orders(ranking, filled(means[:1 + RESAMPLES]))
    spearman, kendall = correlate(orders[:1], orders[1:])
    defined = ~np.isnan(spearman)
    if not defined.any():
        return np.nan, np.nan
    return float(spearman[defined].mean()), float(kendall[defined].mean())


def correlate(first: Orders, second: Others) -> tuple[Pairs, Pairs]:
    """Spearman's rho and Kendall's tau-b of every row of one with every row of the other, over
    the heads that both define (not NaN); NaN where one of them is constant there.

    Both are cosines of antisymmetric comparisons c_ij = sign(x_i - x_j): tau-b of c itself, rho
    of its row sums, which are twice the centred ranks, ties sharing theirs.
    """
    (c, known), (d, known_too) = _compare(first), _compare(second)
    tau = c.reshape(len(c), -1) @ d.reshape(len(d), -1).T
    ranks, squares = _among(c, known_too)
    ranks_too, squares_too = _among(d, known)
    rho = np.einsum("xyi,yxi->xy", ranks, ranks_too)
    return (_cosine(rho, (ranks ** 2).sum(-1), (ranks_too ** 2).sum(-1).T),
            _cosine(tau, squares, squares_too.T))


def _compare(orders: Float[np.ndarray, "order head"],
             ) -> tuple[Float[np.ndarray, "order head head"], Float[np.ndarray, "order head"]]:
    """sign(x_i - x_j), 0 where one is undefined; and which are defined, as 0 and 1. Sums of these
    are exact in float32."""
    above = (orders[:, :, None] > orders[:, None, :]).view(np.int8)
    return ((above - above.swapaxes(1, 2)).astype(np.float32),
            (~np.isnan(orders)).astype(np.float32))


def _among(comparisons: Float[np.ndarray, "order head head"],
           known: Float[np.ndarray, "other head"],
           ) -> tuple[Float[np.ndarray, "order other head"], Pairs]:
    """Row sums and sum of squares of every order's comparisons among the heads known to another."""
    patterns, which = np.unique(known, axis=0, return_inverse=True)

    def rows(values: Float[np.ndarray, "order head head"]) -> Float[np.ndarray, "order other head"]:
        sums = (values.reshape(-1, values.shape[-1]) @ patterns.T).reshape(*values.shape[:2], -1)
        return (sums * patterns.T).swapaxes(1, 2)[:, which].astype(float)

    return rows(comparisons), rows(np.square(comparisons)).sum(-1)


def _cosine(product: Pairs, square: Pairs, square_too: Pairs) -> Pairs:
    with np.errstate(invalid="ignore", divide="ignore"):
        return product / np.sqrt(square * square_too)
