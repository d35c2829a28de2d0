"""What the Compare tab asks: measures beside each other, and models beside each other.

SQL text is built only from names checked against `store.schema`; values travel as parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from store import series
from store.canon import KINDS
from store.grids import at, by_model
from store.queries import Ask, Query, head_values
from store.reader import Store
from store.schema import SUMMARISED, TABLES
from store.selection import HeadKey, Predicate
from store.similar import Heads, deviation, similarity

QUANTITIES = {
    "agreement": ("agree::INT", "CASE WHEN c.probability IS NOT NULL THEN 1 END"),
    "accuracy": ("correct::INT", "c.correct::INT"),
    "probability": ("probability::DOUBLE", "c.probability::DOUBLE"),
    "embedding_l2": ("embedding_l2::DOUBLE", "0"),
}
"""What a pruning curve can be of: how an image counts, and how it does with nothing pruned."""

RANDOM = "random"
"""The measure, in the pruning tables, of orders that follow none."""


def trend(ask: Ask, name: str) -> Query:
    """A row per model on show and layer: the mean, quartiles and extremes over its heads of the
    measure's mean over the images that pass. `depth` is layer / last layer."""
    return _then(head_values(ask, name), _layers)


def values_of(ask: Ask, name: str, heads: Sequence[HeadKey]) -> Query:
    """The rows of `head_values` of these heads."""
    wanted = set(heads)

    def those(store: Store, rows: pa.Table) -> pa.Table:
        keys = zip(*(rows[c].to_pylist() for c in ("model", "layer", "head")), strict=True)
        return rows.filter(pa.array([key in wanted for key in keys], pa.bool_()))

    return _then(head_values(ask, name), those)


def _then(query: Query, step: Callable[[Store, pa.Table], pa.Table]) -> Query:
    """The query, with one more step after what it makes of its rows."""
    return replace(query, then=lambda store, rows: step(
        store, rows if query.then is None else query.then(store, rows)))


def _layers(store: Store, rows: pa.Table) -> pa.Table:
    """A row per model and layer, from a row per head."""
    found: dict[str, list] = {name: [] for name in _LAYER.names}
    for model, values in by_model(rows, "value").items():
        layers, heads = len(values), np.isfinite(values).sum(-1)
        sums = np.nansum(values, -1)
        columns = {"model": [model] * layers, "layer": range(layers),
                   "depth": np.arange(layers) / max(1, layers - 1), "heads": heads,
                   "mean": np.divide(sums, heads, out=np.full(layers, np.nan), where=heads > 0),
                   **_quartiles(values)}
        for name, column in columns.items():
            found[name].extend(column)
    return pa.table({n: pa.array(found[n], _LAYER.field(n).type) for n in _LAYER.names})


_LAYER = pa.schema([("model", pa.string()), ("layer", pa.int16()), ("depth", pa.float64()),
                    ("heads", pa.int32()), *((name, pa.float64()) for name in (
                        "mean", "low", "q1", "median", "q3", "high"))])
_SHARES = {"low": 0.0, "q1": 0.25, "median": 0.5, "q3": 0.75, "high": 1.0}


def _quartiles(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of each row, over what is not NaN (interpolated, as DuckDB's quantile_cont is)."""
    ordered = np.sort(values, -1)
    last = np.maximum(np.isfinite(values).sum(-1) - 1, 0)
    row = np.arange(len(values))
    found = {}
    for name, share in _SHARES.items():
        below = np.floor(share * last).astype(int)
        above = np.minimum(below + 1, last)
        part = share * last - below
        found[name] = ordered[row, below] * (1 - part) + ordered[row, above] * part
    return found


def against(ask: Ask, names: Mapping[str, str]) -> Query:
    """A row per head of the models on show: its pattern, and measures (column -> measure), each
    its mean over the images that pass."""
    only = ask.models_only
    if not ask.selection.images.clauses:
        means = "".join(f", {_mean(m)} AS {column}" for column, m in names.items())
        return Query(f"SELECT model, layer, head, pattern{means} FROM heads {only.where} "
                     "ORDER BY model, layer, head", only.params)

    def beside(store: Store, rows: pa.Table) -> pa.Table:
        for column, name in names.items():
            found = by_model(head_values(ask, name).rows(store), "value")
            rows = rows.append_column(column, pa.array(at(rows, found), from_pandas=True))
        return rows

    return Query(f"SELECT model, layer, head, pattern FROM heads {only.where} "
                 "ORDER BY model, layer, head", only.params, beside)


def matched(ask: Ask, pair: tuple[str, str], name: str) -> Query:
    """A row per head of the pair's first model that the assignment gives a head of the second: how
    alike the two are, the measure's mean over the images that pass in both, and what it is more in
    the second. The largest difference comes first."""
    def differences(store: Store, rows: pa.Table) -> pa.Table:
        found = by_model(head_values(ask, name).rows(store), "value")
        value = at(rows, found)
        other = at(rows, found, ("other_model", "other_layer", "other_head"))
        rows = rows.append_column("value", pa.array(value, from_pandas=True))
        rows = rows.append_column("other_value", pa.array(other, from_pandas=True))
        rows = rows.append_column("difference", pa.array(other - value, from_pandas=True))
        return rows.take(pa.array(np.argsort(-np.abs(other - value), kind="stable")))

    return Query("""
SELECT m.model, m.layer, m.head, m.other_model, m.other_layer, m.other_head, m.similarity,
       m.p_value, m.matched, a.pattern, b.pattern AS other_pattern
FROM (SELECT * FROM head_matches WHERE model = $a AND other_model = $b) m
JOIN (SELECT layer, head, pattern FROM heads WHERE model = $a) a USING (layer, head)
JOIN (SELECT layer, head, pattern FROM heads WHERE model = $b) b
  ON b.layer = m.other_layer AND b.head = m.other_head
ORDER BY m.layer, m.head""".strip(), {"a": pair[0], "b": pair[1]}, differences)


def measures_agree(ask: Ask) -> Query:
    """A row per model on show and unordered pair of importance measures under zero ablation: how
    alike they put its heads in order, over all images."""
    only = ask.models_only
    return Query("SELECT model, measure AS one, other_measure AS other, spearman, kendall, images "
                 f"FROM rank_agreement WHERE {only.sql} AND ablation = 'zero' "
                 "AND other_ablation = 'zero' ORDER BY model, one, other", only.params)


def ablations_agree(ask: Ask, name: str) -> Query:
    """A row per model on show and unordered pair of ablations: how alike they put its heads in
    order by one measure, over the images that have both."""
    only = ask.models_only
    return Query("SELECT model, ablation AS one, other_ablation AS other, spearman, kendall, "
                 f"images FROM rank_agreement WHERE {only.sql} AND measure = $measure "
                 "AND other_measure = $measure ORDER BY model, one, other",
                 {**only.params, "measure": name})


def curves(ask: Ask, name: str, quantity: str) -> Query:
    """A row per model on show, order and fraction of its heads pruned: the quantity, over the
    judging images that pass. `path` is least_first or most_first by the measure, or random: the
    mean, smallest and largest of the random orders."""
    table = _all_images(ask, quantity) if not ask.selection.images.clauses else \
        _passing_images(ask, quantity)
    return Query(f"""
SELECT model, CASE WHEN measure = '{RANDOM}' THEN measure ELSE "order" END AS path, fraction,
       pruned, avg(v) AS value, min(v) AS low, max(v) AS high, count(v) AS orders,
       max(images) AS images, max(ranking_images) AS ranking_images
FROM ({table.sql})
GROUP BY ALL ORDER BY model, path, fraction""".strip(), {**table.params, "measure": name})


_ORDERED = f"measure IN ($measure, '{RANDOM}')"


def _all_images(ask: Ask, quantity: str) -> Predicate:
    only = ask.models_only
    column = TABLES["pruning_curves"].column(quantity).name
    return Predicate(f"SELECT *, {column}::DOUBLE AS v FROM pruning_curves WHERE {only.sql} "
                     f"AND {_ORDERED}", only.params)


def _passing_images(ask: Ask, quantity: str) -> Predicate:
    pruned, unpruned = QUANTITIES[quantity]
    kept = ask.models_only.and_(ask.images)
    return Predicate(f"""
  WITH points AS (
    SELECT model, image, measure, "order", pruned, {pruned} AS v FROM pruning_points
    WHERE {kept.sql} AND {_ORDERED}
  ), clean AS (
    SELECT p.*, 0 AS pruned, {unpruned} AS v
    FROM (SELECT DISTINCT model, image, measure, "order" FROM points) p
    JOIN (SELECT * FROM predictions WHERE {ask.models_only.sql}) c USING (model, image)
  )
  SELECT model, measure, "order", pruned, pruned / any_value(heads) AS fraction, avg(v) AS v,
         count(*) AS images, NULL::INTEGER AS ranking_images
  FROM (FROM points UNION ALL BY NAME FROM clean)
  JOIN (SELECT model, count(*) AS heads FROM heads GROUP BY model) USING (model)
  GROUP BY model, measure, "order", pruned
""", kept.params)


def areas(ask: Ask, name: str, quantity: str) -> Query:
    """A row per model on show and order by the measure: its curve's area over all judging images,
    and the share of random orders that it beats."""
    only = ask.models_only
    return Query('SELECT model, "order" AS path, area, random_mean, random_low, random_high, '
                 f"random_orders, beats FROM pruning_areas WHERE {only.sql} "
                 "AND measure = $measure AND quantity = $quantity ORDER BY model, path",
                 {**only.params, "measure": name, "quantity": quantity})


def measures_of(ask: Ask, heads: Sequence[HeadKey]) -> Query:
    """A row per head of `heads` and measure, in the schema's order: its mean over the images that
    pass and that mean's interval."""
    key = _keys(heads)
    if not ask.selection.images.clauses:
        columns = ", ".join(f"{_mean(m.name, s)} AS {m.name}_{s}" for m in SUMMARISED
                            for s in ("mean", "low", "high"))
        return Query(f"SELECT model, layer, head, {columns} FROM heads {key.where}", key.params,
                     _by_measure)
    kept = key.and_(ask.images)

    def quickly(_: Store) -> pa.Table | None:
        passing = ask.passing
        found = [_from_series(ask.store, head, passing) for head in dict.fromkeys(heads)]
        return None if None in found else pa.Table.from_pylist(found)

    names = ", ".join(f"{m.name}_{s}" for m in SUMMARISED for s in ("mean", "low", "high"))
    return Query(f"""
SELECT model, layer, head, {names}
FROM (SELECT model, layer, head{_statistics("head_scores")} FROM head_scores
      {kept.where} AND ablation = 'zero' GROUP BY ALL)
FULL JOIN (SELECT model, layer, head{_statistics("head_strength")} FROM head_strength
           {kept.where} GROUP BY ALL) USING (model, layer, head)""".strip(),
                 kept.params, _by_measure, quickly)


def _from_series(store: Store, head: HeadKey, passing: np.ndarray) -> dict[str, object] | None:
    """A head's row of `measures_of` over the images in bool[image], from its series; None where the
    store has none of all images."""
    names = [m.name for m in SUMMARISED]
    values = series.measures(store, head, names)
    if values is None:
        return None
    found: dict[str, object] = dict(zip(("model", "layer", "head"), head, strict=True))
    for name, own in zip(names, values, strict=True):
        known = own[passing & np.isfinite(own)].astype(np.float64)
        found[f"{name}_mean"] = float(known.mean()) if len(known) else None
        for end, sign in (("low", -1), ("high", 1)):
            found[f"{name}_{end}"] = \
                float(known.mean()) + sign * _reach(known) if len(known) > 1 else None
    return found


def _reach(values: np.ndarray) -> float:
    """1.96 standard errors of their mean."""
    return 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))


def _statistics(table: str) -> str:
    """Mean and mean -+ 1.96 standard errors of every measure that the table holds."""
    held = [m.name for m in SUMMARISED if m.name in TABLES[table].arrow.names]
    return "".join(f""",
  avg({v}) AS {name}_mean, avg({v}) - 1.96 * stddev_samp({v}) / sqrt(count({v})) AS {name}_low,
  avg({v}) + 1.96 * stddev_samp({v}) / sqrt(count({v})) AS {name}_high"""
                   for name in held
                   for v in [f"CASE WHEN isfinite({name}::DOUBLE) THEN {name}::DOUBLE END"])


def _by_measure(store: Store, rows: pa.Table) -> pa.Table:
    """A row per head and measure, from a row per head."""
    found: dict[str, list] = {name: [] for name in _MEASURED.names}
    for row in rows.to_pylist():
        for m in SUMMARISED:
            values = (row["model"], row["layer"], row["head"], m.name,
                      *(row[f"{m.name}_{s}"] for s in ("mean", "low", "high")))
            for name, value in zip(_MEASURED.names, values, strict=True):
                found[name].append(value)
    return pa.table({n: pa.array(found[n], _MEASURED.field(n).type) for n in _MEASURED.names})


_MEASURED = pa.schema([("model", pa.string()), ("layer", pa.int16()), ("head", pa.int16()),
                       ("measure", pa.string()), ("value", pa.float64()), ("low", pa.float64()),
                       ("high", pa.float64())])


def patterns_of(heads: Sequence[HeadKey]) -> Query:
    """A row per head of `heads`, in any order: its pattern's name and score, how much it depends on
    the image, and how similar it is to the first of them (NULL where one has no pattern)."""
    means = ", ".join(f"{kind}_pattern" for kind in KINDS)
    key = _keys(heads)
    return Query("SELECT model, layer, head, pattern, pattern_score, content_dependence, "
                 f"content_images, {means} FROM heads {key.where}", key.params,
                 lambda store, rows: _alike(rows, heads[0]))


def _alike(rows: pa.Table, first: HeadKey) -> pa.Table:
    keys = list(zip(*(rows[c].to_pylist() for c in ("model", "layer", "head")), strict=True))
    alike: list[float | None] = [None] * len(keys)
    patterns = {kind: rows[f"{kind}_pattern"].to_pylist() for kind in KINDS}
    known = [i for i in range(len(keys)) if patterns["patch"][i] is not None]
    if first in keys and keys.index(first) in known:
        heads = _heads({kind: [found[i] for i in known] for kind, found in patterns.items()})
        row = similarity(heads.take([known.index(keys.index(first))]), heads)[0]
        for i, value in zip(known, row.tolist(), strict=True):
            alike[i] = value
    kept = rows.drop_columns([f"{kind}_pattern" for kind in KINDS])
    return kept.append_column("similarity", pa.array(alike, pa.float64()))


def _heads(patterns: Mapping[str, list]) -> Heads:
    """Heads by their patterns alone."""
    count = len(patterns["patch"])
    filled = {name: np.array([np.full(kind.size, np.nan) if p is None else p
                              for p in patterns[name]]) for name, kind in KINDS.items()}
    return Heads(np.arange(count), np.arange(count), [None] * count,
                 {name: deviation(kind, filled[name]) for name, kind in KINDS.items()})


def match_of(one: HeadKey, other: HeadKey) -> Query:
    """The row of the assignment that gives the one head to the other; none where none does."""
    return Query("SELECT similarity, p_value, matched FROM head_matches WHERE model = $model "
                 "AND layer = $layer AND head = $head AND other_model = $other_model "
                 "AND other_layer = $other_layer AND other_head = $other_head",
                 dict(zip(("model", "layer", "head", "other_model", "other_layer", "other_head"),
                          (*one, *other), strict=True)))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation over what both define; ties share the mean of their ranks. NaN for fewer
    than three, or where one is constant."""
    both = np.isfinite(one) & np.isfinite(other)
    a, b = (_ranks(values[both]) for values in (one, other))
    size = float(np.sqrt((a @ a) * (b @ b))) if len(a) > 2 else 0.0
    return float(a @ b) / size if size else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Less their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks - (len(values) + 1) / 2


def _mean(name: str, suffix: str = "mean") -> str:
    """A column of `heads`, checked against the schema. KeyError if there is none."""
    return TABLES["heads"].column(f"{name}_{suffix}").name


def _keys(heads: Sequence[HeadKey]) -> Predicate:
    return Predicate(
        "(model, layer, head) IN (SELECT unnest($names::VARCHAR[]), unnest($layers::INTEGER[]), "
        "unnest($numbers::INTEGER[]))",
        {"names": [h[0] for h in heads], "layers": [h[1] for h in heads],
         "numbers": [h[2] for h in heads]})
