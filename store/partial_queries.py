"""What the views of partial pruning ask: what is left when parts of a head's attention are 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from store import quick_partial
from store.query import Ask, Query, quickly
from store.reader import Store
from store.schema import MODES, RANKED, TABLES
from store.selection import HeadKey, Heads, Predicate, Selection

TABLE = quick_partial.TABLE
QUANTITIES = ("probability", "js_divergence", "embedding_l2")
"""The columns of `partial_pruning` that are compared between modes."""

TOP = 5
"""Classes of a list of predictions."""

_EVERYWHERE = "embedding_l2"
"""The importance measure that every model has."""


def by_mode(ask: Ask, quantity: str, heads: Sequence[HeadKey], focus: int | None) -> Query:
    """A row per head and mode: the quantity's mean over the images that pass and have partial
    pruning, mean +- 1.96 standard errors (NULL for a single image), how many images these are,
    and of how many that have it; with `focus`, the value for that image alone.
    """
    column = TABLE.column(quantity).name
    of = _of(ask, heads) if focus is None else _of(ask, heads).and_(_only(focus))
    kept = ask.images if focus is None else Predicate()
    error = "1.96 * stddev_samp(v) FILTER (kept) / sqrt(count(v) FILTER (kept))"
    return Query(f"""
SELECT model, layer, head, mode, avg(v) FILTER (kept) AS value,
       avg(v) FILTER (kept) - {error} AS low,
       avg(v) FILTER (kept) + {error} AS high,
       count(*) FILTER (kept) AS images, count(*) AS everything
FROM (SELECT model, layer, head, mode, {kept.expression} AS kept,
             CASE WHEN isfinite({column}::DOUBLE) THEN {column}::DOUBLE END AS v
      FROM {TABLE.name} {of.where})
GROUP BY model, layer, head, mode ORDER BY model, layer, head, mode""".strip(),
                 of.and_(kept).params,
                 quick=quickly(quick_partial.by_mode, ask, quantity, heads, focus))


def predictions(ask: Ask, mode: str, heads: Sequence[HeadKey], focus: int | None) -> Query:
    """Rows per head for the mode and for `none`: the five classes with the largest mean
    probability over the images that pass (or for `focus` alone), the largest first.

    The lists hold five classes each, so a class counts as 0 for an image that does not list it:
    the mean is a lower bound wherever `listed` is less than `images`. ValueError for no mode.
    """
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; one of {', '.join(MODES)}")
    kept = _of(ask, heads).and_(
        Predicate("mode IN ('none', $mode)", {"mode": mode}),
        ask.images if focus is None else _only(focus), Predicate("top5 IS NOT NULL"))
    return Query(f"""
WITH rows AS (
  SELECT model, layer, head, mode, top5,
         count(*) OVER (PARTITION BY model, layer, head, mode) AS images
  FROM {TABLE.name} {kept.where}
), listed AS (
  SELECT model, layer, head, mode, images, unnest(top5) AS one FROM rows
)
SELECT model, layer, head, mode, one.class AS class, any_value(one.name) AS name,
       sum(one.probability::DOUBLE) / any_value(images) AS probability, count(*) AS listed,
       any_value(images) AS images
FROM listed GROUP BY model, layer, head, mode, one.class
QUALIFY row_number() OVER (
  PARTITION BY model, layer, head, mode ORDER BY probability DESC, class) <= {TOP}
ORDER BY model, layer, head, mode, probability DESC, class""".strip(), kept.params,
                 quick=quickly(quick_partial.predictions, ask, mode, heads, focus, TOP))


def leaders(ask: Ask, importance: str, most: int) -> Query:
    """The head of each of the first `most` models on show that ranks first by the measure over all
    images; by the change of the embedding where a model lacks the measure."""
    first = f"coalesce({_rank(importance)}, {_rank(_EVERYWHERE)})"
    models = Ask(ask.store, ask.models[:most], Selection()).models_only
    return Query(f"SELECT model, layer, head FROM heads {models.where} QUALIFY row_number() OVER "
                 f"(PARTITION BY model ORDER BY {first}, layer, head) = 1 ORDER BY model",
                 models.params, quick=lambda store: _leaders(store, set(ask.models[:most]),
                                                             _rank(importance)))


_RANKS = "SELECT model, layer, head, {} FROM heads ORDER BY model, layer, head".format(
    ", ".join(f"{m.name}_rank" for m in RANKED))


def _leaders(store: Store, models: set[str], rank: str) -> pa.Table:
    rows = store.kept(_RANKS)
    own, everywhere = (rows[name].to_numpy(zero_copy_only=False)
                       for name in (rank, _rank(_EVERYWHERE)))
    names = rows["model"].to_pylist()
    first: dict[str, int] = {}
    for row in np.argsort(np.where(np.isfinite(own), own, everywhere), kind="stable").tolist():
        first.setdefault(names[row], row)
    kept = [first[model] for model in sorted(models.intersection(first))]
    return rows.select(["model", "layer", "head"]).take(pa.array(kept, pa.int64()))


def measured(ask: Ask) -> Query:
    """The images that have partial pruning for a model on show, and their labels."""
    return Query(f"""
SELECT DISTINCT image, label FROM {TABLE.name} JOIN (SELECT image, label FROM images) USING (image)
{ask.models_only.where} AND layer = 0 AND head = 0 AND mode = 'none' ORDER BY image""".strip(),
                 ask.models_only.params)


def _only(image: int) -> Predicate:
    return Predicate("image = $focus", {"focus": image})


def _of(ask: Ask, heads: Sequence[HeadKey]) -> Predicate:
    """These heads; none without any."""
    if not heads:
        return Predicate("false")
    return Ask(ask.store, ask.models, Selection((Heads(tuple(heads)),))).where(
        ("model", "layer", "head"))


def _rank(name: str) -> str:
    """The column with a measure's ranks. ValueError if it ranks nothing."""
    if name not in {c.name for c in RANKED}:
        raise ValueError(f"no ranks by {name!r}; one of {', '.join(c.name for c in RANKED)}")
    return TABLES["heads"].column(f"{name}_rank").name
