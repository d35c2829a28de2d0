"""Do two heads cover for each other? Pairs of heads set to 0 together, and what that shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from precompute.summaries import as_table
from store.reader import Store

MEASURES = ("probability_drop", "js_divergence", "embedding_l2")

HeadKey = tuple[int, int]
Pair = tuple[HeadKey, HeadKey]


def choose_pairs(store: Store, model: str, heads: int = 8, seed: int = 0) -> list[Pair]:
    """All pairs of the `heads` heads that matter most (mean embedding_l2, zero ablation), and as
    many random pairs of the others, or all there are; in order, each pair too."""
    rows = store.query(
        "SELECT layer, head FROM head_scores WHERE model = ? AND ablation = 'zero' "
        "GROUP BY layer, head ORDER BY avg(embedding_l2::DOUBLE)::FLOAT DESC NULLS LAST, "
        "layer, head", [model])
    ranked = list(zip(rows["layer"].to_pylist(), rows["head"].to_pylist(), strict=True))
    top = _pairs(ranked[:heads])
    others = _pairs(ranked[heads:])
    drawn = np.random.default_rng(seed).permutation(len(others))[:len(top)]
    return sorted([*top, *(others[i] for i in drawn)])


def _pairs(heads: Sequence[HeadKey]) -> list[Pair]:
    return list(itertools.combinations(sorted(heads), 2))


def head_pairs(store: Store, model: str) -> pa.Table:
    """The rows of `head_pairs`: means with both heads pruned, and how much that is above the sum
    of the two heads' own, over the same images (those that define all three)."""
    means = ", ".join(
        f"avg(p.{m}::DOUBLE) AS {m}_both, "
        f"avg(p.{m}::DOUBLE - a.{m}::DOUBLE - b.{m}::DOUBLE) AS {m}_synergy" for m in MEASURES)
    return as_table("head_pairs", store.query(f"""
WITH alone AS (FROM head_scores WHERE model = $model AND ablation = 'zero')
SELECT p.model, p.layer, p.head, p.other_layer, p.other_head, count(*) AS images, {means}
FROM (FROM pair_scores WHERE model = $model) p
JOIN alone a ON a.image = p.image AND a.layer = p.layer AND a.head = p.head
JOIN alone b ON b.image = p.image AND b.layer = p.other_layer AND b.head = p.other_head
GROUP BY p.model, p.layer, p.head, p.other_layer, p.other_head
ORDER BY p.layer, p.head, p.other_layer, p.other_head""", {"model": model}))
