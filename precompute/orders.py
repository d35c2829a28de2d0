"""In which orders heads are pruned together, how many at a time, and who ranks and who judges."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from precompute.summaries import floats, heads_of, number
from store.reader import Store
from store.schema import RANKED, Column, direction

LEAST_FIRST, MOST_FIRST, RANDOM = "least_first", "most_first", "random"
ANCHORS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the heads that every curve has a point at, or near."""

HeadKey = tuple[int, int]


@dataclass(frozen=True)
class Order:
    """All heads of a model, (layer, head), in the order in which they are pruned."""

    measure: str
    order: str
    heads: tuple[HeadKey, ...]


def split(images: Sequence[tuple[int, str]]) -> tuple[list[int], list[int]]:
    """(image, sha256) → the images that rank the heads, and the others, which judge the orders.

    A hash of the file decides, so that images stay on their side when others come, and copies of
    a file are on the same one, unless one side would be empty. A single image ranks.
    """
    hashes = {image: hashlib.sha256(sha256.encode()).digest() for image, sha256 in images}
    ranking, judging = ([image for image, found in hashes.items() if found[0] % 2 == side]
                        for side in (0, 1))
    for full, empty in ((ranking, judging), (judging, ranking)):
        if not empty and len(full) > 1:
            empty.append(min(full, key=lambda image: (hashes[image], image)))
            full.remove(empty[0])
    return (ranking, judging) if ranking else (judging, ranking)


def make_orders(store: Store, model: str, ranking: Sequence[int], random_orders: int = 20,
                seed: int = 0) -> list[Order]:
    """By every ranked measure that the model has, the heads that matter least first and those that
    matter most first, by its mean over the ranking images (zero ablation); then random orders.

    Ties are in order of layer and head; a head without the measure counts as mattering least.
    """
    heads = heads_of(store, model)
    columns = ", ".join(f"avg({number(m)}) FILTER (image IN (SELECT unnest($images::INTEGER[]))) "
                        f"AS {m.name}" for m in RANKED)
    means = store.query(f"SELECT {columns} FROM head_scores WHERE model = $model "
                        "AND ablation = 'zero' GROUP BY layer, head ORDER BY layer, head",
                        {"model": model, "images": list(ranking)})
    ranked = [order for m in RANKED for order in _by_measure(m, heads, floats(means[m.name]))]
    drawn = [np.random.default_rng((seed, i)).permutation(len(heads))
             for i in range(random_orders)]
    return ranked + [Order(RANDOM, str(i), tuple(heads[k] for k in order))
                     for i, order in enumerate(drawn)]


def _by_measure(measure: Column, heads: Sequence[HeadKey], means: Float[np.ndarray, head],
                ) -> list[Order]:
    """Both orders; none where no head has the measure. Means count as stored, in float32."""
    if np.isnan(means).all():
        return []
    matters = [-math.inf if math.isnan(v) else direction(measure) * float(np.float32(v))
               for v in means]
    return [Order(measure.name, name, tuple(head for _, head in sorted(
        (sign * value, head) for value, head in zip(matters, heads, strict=True))))
        for name, sign in ((LEAST_FIRST, 1), (MOST_FIRST, -1))]


def fractions(heads: int, steps: int = 8) -> list[int]:
    """How many heads are pruned at each point of a curve, from 1 to all, denser at the start.

    One head and the ANCHORS, then points in the widest gaps, as the eye sees them on an axis of
    square roots, until there are `steps`.
    """
    chosen = sorted({1, *(max(1, round(share * heads)) for share in ANCHORS)})
    while len(chosen) < min(steps, heads):
        between = [(math.sqrt(b) - math.sqrt(a), a, b)
                   for a, b in itertools.pairwise(chosen) if b - a > 1]
        _, a, b = max(between)
        middle = round(((math.sqrt(a) + math.sqrt(b)) / 2) ** 2)
        chosen = sorted({*chosen, min(max(middle, a + 1), b - 1)})
    return chosen
