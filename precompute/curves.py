"""Pruning curves: what is left of a model as its heads go, one after the other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from precompute.orders import LEAST_FIRST, RANDOM
from precompute.summaries import as_table, floats, heads_of
from store.reader import Store
from store.schema import RANKED
from store.writer import to_table

QUANTITIES = {"agreement": 1, "accuracy": 1, "probability": 1, "embedding_l2": -1}
"""What curves are of; 1 where more of it is a healthier model."""

_CURVES = """
WITH points AS (
  SELECT image, measure, "order", pruned, agree::INT AS agreement, correct::INT AS accuracy,
         probability, embedding_l2
  FROM pruning_points WHERE model = $model
), unpruned AS (
  SELECT image, measure, "order", 0 AS pruned,
         CASE WHEN c.probability IS NOT NULL THEN 1 END AS agreement, c.correct::INT AS accuracy,
         c.probability, 0 AS embedding_l2
  FROM (SELECT DISTINCT image, measure, "order" FROM points)
  JOIN (FROM predictions WHERE model = $model) c USING (image)
)
SELECT $model AS model, measure, "order", pruned / $heads AS fraction, pruned, count(*) AS images,
       CASE WHEN measure <> $random THEN $ranking_images END AS ranking_images,
       avg(accuracy) AS accuracy, avg(agreement) AS agreement,
       avg(probability::DOUBLE) AS probability, avg(embedding_l2::DOUBLE) AS embedding_l2
FROM (FROM unpruned UNION ALL BY NAME FROM points)
GROUP BY measure, "order", pruned
ORDER BY list_position($measures::VARCHAR[], measure) NULLS LAST, try_cast("order" AS INT),
         "order", pruned"""


def pruning_curves(store: Store, model: str, ranking_images: int) -> pa.Table:
    """The rows of `pruning_curves`: means over the judging images of `pruning_points`, and at
    fraction 0 the unpruned model, from what it predicts."""
    return as_table("pruning_curves", store.query(_CURVES, {
        "model": model, "random": RANDOM, "ranking_images": ranking_images,
        "heads": len(heads_of(store, model)), "measures": [m.name for m in RANKED]}))


def pruning_areas(curves: pa.Table, model: str) -> pa.Table:
    """The rows of `pruning_areas`, from one model's `pruning_curves`: every order that is not
    random beside the random ones."""
    areas = _areas(curves)
    random = {quantity: np.array([found[quantity] for (measure, _), found in areas.items()
                                  if measure == RANDOM]) for quantity in QUANTITIES}
    rows = [{"model": model, "measure": measure, "order": order, "quantity": quantity,
             "area": area, **_beside(area, random[quantity],
                                     QUANTITIES[quantity] * (1 if order == LEAST_FIRST else -1))}
            for (measure, order), found in areas.items() if measure != RANDOM
            for quantity, area in found.items()]
    return to_table("pruning_areas", {name: [row[name] for row in rows] for name in (
        "model", "measure", "order", "quantity", "area", "random_mean", "random_low",
        "random_high", "random_orders", "beats")})


def _areas(curves: pa.Table) -> dict[tuple[str, str], dict[str, float]]:
    """(measure, order) → quantity → the area under its curve; NaN where it is undefined."""
    measure, order = (np.array(curves[name].to_pylist(), dtype=object)
                      for name in ("measure", "order"))
    fraction = floats(curves["fraction"])
    found = {}
    for key in dict.fromkeys(zip(measure, order, strict=True)):
        own = np.flatnonzero((measure == key[0]) & (order == key[1]))
        own = own[np.argsort(fraction[own])]
        found[key] = {quantity: float(np.trapezoid(floats(curves[quantity])[own], fraction[own]))
                      for quantity in QUANTITIES}
    return found


def _beside(area: float, random: Float[np.ndarray, order], better: int,
            ) -> dict[str, object]:
    """How an area compares with those of random orders; `better` is 1 where more area wins."""
    if not len(random) or np.isnan(area):
        low = mean = high = beats = np.nan
    else:
        low, mean, high = random.min(), random.mean(), random.max()
        beats = float((better * (area - random) > 0).mean())
    return {"random_mean": mean, "random_low": low, "random_high": high,
            "random_orders": len(random), "beats": beats}
