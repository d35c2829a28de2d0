"""One function per question that a view asks; each returns a `Query`, to run or to show.

SQL text is built only from names checked against `store.schema`; values travel as parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from store import bins, quick
from store.passing import inside
from store.query import Ask, Query, quickly
from store.schema import IMPORTANCE, TABLES, measure
from store.selection import MODELS as _MODELS
from store.selection import HeadKey, Heads, Predicate, Scope

__all__ = ["Ask", "Query", "inside"]

_HEAD = ("model", "layer", "head")


def model_facts() -> Query:
    """Every model of the store; `summarised` is how many heads have summaries (0 = unfinished)."""
    return Query("SELECT *, (SELECT count(*) FROM heads h WHERE h.model = m.model) AS summarised "
                 "FROM models m ORDER BY model")


def label_counts() -> Query:
    return Query("SELECT label, count(*) AS images FROM images GROUP BY label ORDER BY label")


def image_counts(ask: Ask) -> Query:
    """How many images pass, and how many there are."""
    kept = ask.images
    return Query("SELECT count(*) AS images, (SELECT count(*) FROM images "
                 f"{kept.where}) AS kept FROM images", kept.params, quick=lambda _: pa.table(
                     {"images": [ask.count], "kept": [int(ask.passing.sum())]}))


def table_of(measure_name: str) -> str:
    """The per-image table that holds a measure."""
    return "head_scores" if measure(measure_name) in IMPORTANCE else "head_strength"


def overview(ask: Ask, importance: str | None = None) -> Query:
    """A row per model on show and image: where it lies, what it is, and whether it passes.

    `agreement`: share of the models on show, with a classifier, that predict the commonest class.
    `effect`, for an importance measure: its mean over the chosen heads of that model (all its heads
    if none).
    """
    images = f"""
WITH votes AS (
  SELECT image, predicted, count(*) AS n FROM predictions
  WHERE {_MODELS} AND predicted IS NOT NULL GROUP BY image, predicted
), agreement AS (
  SELECT image, max(n) / sum(n) AS agreement FROM votes GROUP BY image
)
SELECT p.model, p.image, p.x, p.y, i.path, i.label, p.predicted, p.correct, p.probability, agreement
FROM predictions p JOIN images i USING (image) LEFT JOIN agreement USING (image)
WHERE p.{_MODELS} ORDER BY p.model, p.image""".strip()
    answer = quickly(_overview, ask, images, importance)
    if importance is None:
        return Query(f"SELECT *, {ask.images.expression} AS kept FROM (\n{images})\n"
                     "ORDER BY model, image", ask.models_only.and_(ask.images).params, quick=answer,
                     brief=True)
    heads = _chosen(ask)
    return Query(f"""
WITH effect AS (
  SELECT model, image, avg({_number(importance)}) AS effect FROM {table_of(importance)}
  {_zero(importance, heads).where} GROUP BY model, image
)
SELECT *, {ask.images.expression} AS kept FROM (
{images}) LEFT JOIN effect USING (model, image)
ORDER BY model, image""".strip(), heads.and_(ask.images).params, quick=answer, brief=True)


def _overview(ask: Ask, images: str, importance: str | None) -> pa.Table:
    rows = ask.store.kept(images, dict(ask.models_only.params))
    numbers = rows["image"].to_numpy()
    if importance is not None:
        effects = quick.effect(ask, importance, ask.selection.heads)
        names = np.array(sorted(effects), object)
        means = np.stack([quick.mean(*effects[name]) for name in names])
        models = rows["model"].dictionary_encode().combine_chunks()
        place = np.searchsorted(names, models.dictionary.to_numpy(zero_copy_only=False))
        values = means[place[models.indices.to_numpy()], numbers]
        rows = rows.append_column("effect", pa.array(values, from_pandas=True))
    return rows.append_column("kept", pa.array(ask.passing[numbers]))


def _chosen(ask: Ask) -> Predicate:
    """The chosen heads; of a model without any chosen head, all of them."""
    heads = ask.where(_HEAD)
    if not heads.sql:
        return ask.models_only
    bare = [m for m in ask.models if m not in {h[0] for h in ask.selection.heads}]
    either = f"({heads.sql} OR model IN (SELECT unnest($bare::VARCHAR[])))"
    return ask.models_only.and_(Predicate(either, {**heads.params, "bare": bare}))


def head_values(ask: Ask, name: str) -> Query:
    """A row per head of the models on show: the measure's mean over the images that pass.

    Without an image filter from `heads` (bootstrap interval), else recomputed, with mean
    +- 1.96 standard errors (NULL for a single image).
    """
    if not ask.selection.images.clauses:
        mean, low, high = (_name("heads", f"{name}_{s}") for s in ("mean", "low", "high"))
        return Query(f"SELECT model, layer, head, {mean} AS value, {low} AS low, {high} AS high, "
                     f"images FROM heads WHERE {_MODELS} ORDER BY model, layer, head",
                     ask.models_only.params, quick=lambda _: quick.summaries(ask, name))
    kept = _zero(name, ask.models_only, ask.images)
    return Query(f"""
SELECT model, layer, head, avg(v) AS value,
       avg(v) - 1.96 * stddev_samp(v) / sqrt(count(v)) AS low,
       avg(v) + 1.96 * stddev_samp(v) / sqrt(count(v)) AS high, count(v) AS images
FROM (SELECT model, layer, head, {_number(name)} AS v FROM {table_of(name)} {kept.where})
GROUP BY model, layer, head ORDER BY model, layer, head""".strip(), kept.params,
                 quick=quickly(quick.head_values, ask, name))


def baselines(ask: Ask) -> Query:
    """A row per model: its mean unpruned top probability over the images that pass."""
    kept = ask.models_only.and_(ask.images)
    return Query("SELECT model, avg(probability::DOUBLE) AS probability, count(*) AS images FROM "
                 f"predictions {kept.where} GROUP BY model ORDER BY model", kept.params,
                 quick=quickly(quick.baselines, ask))


def profiles(ask: Ask, heads: Sequence[HeadKey], focus: int | None) -> Query:
    """A row per series and hop: mean strength over the images that pass, its quartiles over them,
    and the focused image's value.

    A series is a chosen head or, without any, a model; its value on an image is then the mean over
    its heads.
    """
    among = _among(ask, heads)
    params = {**among.and_(ask.images).params, "focus": -1 if focus is None else focus}
    series = "model, layer, head" if heads else \
        "model, NULL::SMALLINT AS layer, NULL::SMALLINT AS head"
    return Query(f"""
WITH hops AS (
  SELECT {series}, image, {ask.images.expression} AS kept,
         generate_subscripts(hop_strength, 1) - 1 AS hop, unnest(hop_strength) AS v
  FROM head_strength {among.where}
), one AS (
  SELECT model, layer, head, image, kept, hop, avg(v::DOUBLE) AS v FROM hops GROUP BY ALL
)
SELECT model, layer, head, hop, avg(v) FILTER (kept) AS mean,
       quantile_cont(v, 0.25) FILTER (kept) AS low, quantile_cont(v, 0.75) FILTER (kept) AS high,
       avg(v) FILTER (image = $focus) AS focus, count(v) FILTER (kept) AS n
FROM one GROUP BY model, layer, head, hop ORDER BY model, layer, head, hop""".strip(), params,
                 quick=quickly(quick.profiles, ask, tuple(heads), focus))


def histogram(ask: Ask, name: str, heads: Sequence[HeadKey]) -> Query:
    """A row per series and bin that holds anything: counts of the measure over images.

    `everything` counts all images, `kept` those that pass; a series is a chosen head or, without
    any, a model with all its heads. Bin b is [b width, (b + 1) width) (see `store.bins`).
    """
    among = _zero(name, _among(ask, heads))
    series = "model, layer, head" if heads else \
        "model, NULL::SMALLINT AS layer, NULL::SMALLINT AS head"
    return Query(f"""
WITH one AS (
  SELECT {series}, {_number(name)} AS v, {ask.images.expression} AS kept
  FROM {table_of(name)} {among.where}
), bins AS (SELECT {bins.SQL_WIDTH} AS width FROM one)
SELECT model, layer, head, width, floor(v / width)::BIGINT AS bin,
       count(*) AS everything, count(*) FILTER (kept) AS kept
FROM one, bins WHERE v IS NOT NULL GROUP BY ALL ORDER BY model, layer, head, bin""".strip(),
                 {**among.and_(ask.images).params, "bins": bins.MOST},
                 quick=quickly(quick.histogram, ask, name, tuple(heads)))


def at_image(ask: Ask, name: str, heads: Sequence[HeadKey], image: int) -> Query:
    """A row per series: the measure at one image (the mean over all heads if none is chosen)."""
    among = _zero(name, _among(ask, heads), Predicate("image = $image", {"image": image}))
    series = "layer, head" if heads else "NULL::SMALLINT AS layer, NULL::SMALLINT AS head"
    return Query(f"SELECT model, {series}, avg({_number(name)}) AS value FROM {table_of(name)} "
                 f"{among.where} GROUP BY ALL ORDER BY ALL", among.params,
                 quick=quickly(quick.at_image, ask, name, tuple(heads), image))


def hardest(ask: Ask, importance: str, count: int) -> Query:
    """The images that pass for which the chosen heads (all without any) matter most: the measure's
    mean over those heads and the models on show, largest effect first."""
    heads = _zero(importance, _chosen(ask), ask.images)
    order = "ASC" if measure(importance).important < 0 else "DESC"
    return Query(f"""
SELECT image, any_value(path) AS path, any_value(label) AS label,
       avg({_number(importance)}) AS effect
FROM {table_of(importance)} JOIN (SELECT image, path, label FROM images) USING (image)
{heads.where} GROUP BY image HAVING effect IS NOT NULL
ORDER BY effect {order}, image LIMIT $count""".strip(), {**heads.params, "count": count},
                 quick=quickly(_hardest, ask, importance, count))


def _hardest(ask: Ask, importance: str, count: int) -> pa.Table:
    paths = ask.store.kept("SELECT image, path, label FROM images ORDER BY image")
    return quick.hardest(ask, importance, count, paths)


def thumbnail(image: int) -> Query:
    return Query("SELECT thumbnail FROM images WHERE image = $image", {"image": image})


def find_image(text: str) -> Query:
    """The image with this number, else the first whose path contains the text."""
    return Query("""
SELECT image FROM images
WHERE image = try_cast($text AS INTEGER) OR contains(lower(path), lower($text))
ORDER BY image = try_cast($text AS INTEGER) DESC NULLS LAST, image LIMIT 1""".strip(),
                 {"text": text})


def undefined_models(rows: pa.Table) -> list[str]:
    """Models of a `head_values` answer whose measure is NULL for every head."""
    models = rows["model"].combine_chunks().dictionary_encode()
    values = rows["value"].to_numpy(zero_copy_only=False).astype(float)
    known = np.bincount(models.indices.to_numpy(), np.isfinite(values), len(models.dictionary))
    return [model for model, n in zip(models.dictionary.to_pylist(), known, strict=True) if not n]


def _among(ask: Ask, heads: Sequence[HeadKey]) -> Predicate:
    """The models on show, and of them only `heads` if there are any."""
    scope = Scope(ask.models, lambda region: inside(ask.store, region))
    only = Heads(tuple(heads)).where("series", scope) if heads else Predicate()
    return ask.models_only.and_(only)


def _zero(measure_name: str, *conditions: Predicate) -> Predicate:
    """With the zero ablation, for the table that has several."""
    zero = Predicate("ablation = 'zero'" if table_of(measure_name) == "head_scores" else "")
    return zero.and_(*conditions)


def _number(name: str) -> str:
    """The measure as a double; NaN counts as undefined."""
    column = _name(table_of(name), name)
    return f"CASE WHEN isfinite({column}::DOUBLE) THEN {column}::DOUBLE END"


def _name(table: str, column: str) -> str:
    """A column's name, checked against the schema. KeyError if there is none."""
    return TABLES[table].column(column).name
