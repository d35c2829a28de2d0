"""How much a head's attention depends on the image, from the attention that is kept.

    content_dependence = mean over images of JSD(A_image || mean A), mean over queries

It is 0 where a head looks the same way in every image, whatever that way is. Queries are all
tokens that ask, padding of windows aside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from store.kept import decode
from store.reader import Store

MOST = 64
"""Images, the first that are kept, over which it is taken at most."""

WEIGHTS = 2 ** 24
"""Of one head on all these images that are looked at together, at most (but two images are)."""

Attention = Float[np.ndarray, "image window query key"]


def content_columns(store: Store, model: str, heads: Sequence[tuple[int, int]],
                    ) -> dict[str, list]:
    """`content_dependence` and `content_images` of these heads; None with fewer than two images."""
    real = _real_places(store, model)
    found = [_of_head(store, model, head, real.get(head[0])) for head in heads]
    return {"content_dependence": [value for value, _ in found],
            "content_images": [images or None for _, images in found]}


def _of_head(store: Store, model: str, head: tuple[int, int],
             real: Bool[np.ndarray, place] | None) -> tuple[float | None, int]:
    rows = _rows(store, model, head)
    if len(rows) < 2:
        return None, len(rows)
    attention = np.stack([decode(row) for row in rows])
    return divergence(attention, real), len(rows)


def _rows(store: Store, model: str, head: tuple[int, int]) -> list[dict]:
    """A head's kept rows, as many as are looked at."""
    where = "model = ? AND layer = ? AND head = ?"
    there = store.query(f"SELECT image, windows::BIGINT * queries * keys AS weights FROM attention "
                        f"WHERE {where} ORDER BY image", [model, *head]).to_pylist()
    if not there:
        return []
    count = min(MOST, max(2, WEIGHTS // there[0]["weights"]))
    return store.query(f"FROM attention WHERE {where} AND image <= ? ORDER BY image",
                       [model, *head, there[:count][-1]["image"]]).to_pylist()


def divergence(attention: Attention, real: Bool[np.ndarray, place] | None = None) -> float:
    """Mean over images, and over the queries of all windows that are no padding (`real`, window
    by window; None: all are real), of the Jensen-Shannon divergence from the mean, in nats."""
    attention = attention / attention.sum(-1, keepdims=True)
    mean = attention.mean(0)
    of_mean = _entropy(mean)
    by_query = np.mean([_entropy((one + mean) / 2) - (_entropy(one) + of_mean) / 2
                        for one in attention], axis=0).ravel()
    return max(0.0, float((by_query if real is None else by_query[real]).mean()))


def _entropy(weights: Float[np.ndarray, "window query key"]) -> Float[np.ndarray, "window query"]:
    safe = np.maximum(weights, np.finfo(np.float32).tiny)
    return -(weights * np.log(safe)).sum(-1)


def _real_places(store: Store, model: str) -> dict[int, np.ndarray]:
    """Which places of its windows hold a patch, of each layer that has windows."""
    rows = store.query("SELECT layer, places FROM layers WHERE model = ? AND places IS NOT NULL",
                       [model]).to_pylist()
    return {row["layer"]: np.asarray(row["places"]) >= 0 for row in rows}
