"""What the pattern views ask: the map, its clusters and evidence, one head's attention.

Names of columns come from tables in this file, values travel as parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import kept, quick, row_groups
from store.card_queries import image_facts
from store.query import Ask, Query, quickly
from store.reader import Store
from store.schema import TABLES
from store.selection import HeadKey, Predicate
from store.series_tables import BOUNDS, CELLS, ERRORS, PLACES
from store.similar import alike_of_each, heads_of

MOST_FILTERED = 1000
"""Images that the density of what passes the filters is made of, if more pass."""

MEANS = {"patch": "patch_pattern", "class": "class_pattern"}
CODES = {"patch": "patch", "class": "class"}
"""The columns that hold a kind of pattern, in `heads` and in `pattern_inputs`."""

NO_NAME = "no name"
"""Of a cluster none of whose heads has a named pattern."""

_GRAIN = ("model", "image", "layer", "head")
_HEAD = "model = $model AND layer = $layer AND head = $head"


def blocks() -> Query:
    """The geometry of every block."""
    return Query("SELECT model, layer, heads, grid_h, grid_w, prefix_tokens, class_token, "
                 "class_query, window_h IS NOT NULL AS windowed FROM layers ORDER BY model, layer")


def placed() -> Query:
    """A row per model and kind of pattern that has places in the pattern spaces."""
    return Query("SELECT DISTINCT model, kind FROM head_places WHERE x IS NOT NULL "
                 "ORDER BY model, kind DESC")


def kinds() -> Query:
    """A row per model and kind of pattern that its heads have."""
    each = " UNION ALL ".join(f"SELECT DISTINCT model, '{kind}' AS kind FROM heads WHERE "
                              f"{column} IS NOT NULL" for kind, column in MEANS.items())
    return Query(f"FROM ({each}) ORDER BY model, kind DESC")


def kept_images() -> Query:
    """A row per model and image of which the attention is kept."""
    return Query("SELECT DISTINCT model, image FROM attention WHERE layer = 0 AND head = 0 "
                 "ORDER BY model, image")


def places(ask: Ask, kind: str, space: str, focus: int | None) -> Query:
    """A row per head: where its mean pattern lies, or its pattern on the focused image."""
    (x, y), error = PLACES[space], ERRORS[space]
    table, image = ("head_places", "") if focus is None else ("head_patterns", "image = $focus")
    among = _of_kind(ask, kind).and_(Predicate(image, {} if focus is None else {"focus": focus}))

    return Query(f"""
SELECT p.model, p.layer, p.head, p.{x} AS x, p.{y} AS y, p.{error} AS error, c.cluster,
       h.pattern, h.pattern_score, h.content_dependence
FROM (SELECT * FROM {table} {among.where}) p JOIN heads h USING (model, layer, head)
LEFT JOIN (SELECT model, layer, head, cluster FROM head_places WHERE kind = $kind) c
USING (model, layer, head)
WHERE p.{x} IS NOT NULL ORDER BY p.model, p.layer, p.head""".strip(), among.params,
                 quick=None if focus is None else quickly(_placed, ask, kind, space, focus))


def _placed(ask: Ask, kind: str, space: str, focus: int) -> pa.Table:
    return _known_of(ask.store, kind, quick.places(ask, kind, space, focus))


def _known_of(store: Store, kind: str, rows: pa.Table) -> pa.Table:
    """The rows in order, each with what is known of its head on all images."""
    known = store.kept("""
SELECT model, layer, head, c.cluster, pattern, pattern_score, content_dependence FROM heads
LEFT JOIN (SELECT model, layer, head, cluster FROM head_places WHERE kind = $kind) c
USING (model, layer, head)""", {"kind": kind})
    keys = ["model", "layer", "head"]
    joined = rows.join(known, keys, join_type="inner", use_threads=False)
    return joined.sort_by([(key, "ascending") for key in keys])


def cloud(ask: Ask, kind: str, space: str, most: int = MOST_FILTERED) -> Query:
    """A row per cell of the map that holds patterns of heads on images: how many, and how many of
    them pass the filters; the cells divide the bounds of the space, [x0, x1] and [y0, y1].

    Where more than `most` images pass, `kept` counts those of every second, third, ... of them.
    """
    x, y = PLACES[space]
    among, passes = _of_kind(ask, kind), ask.where(("model", "layer", "head"))
    images = ask.images
    return Query(f"""
WITH passing AS (
  SELECT image FROM (SELECT image, row_number() OVER (ORDER BY image) - 1 AS place,
                            count(*) OVER () AS n FROM images {images.where})
  WHERE place % ceil(n / $most)::INTEGER = 0
), bounds AS (
  SELECT {BOUNDS[space]}::DOUBLE[] AS b FROM pattern_spaces WHERE kind = $kind
), cells AS (
  SELECT {_cell(x, "b[1]", "b[2]")} AS i, {_cell(y, "b[3]", "b[4]")} AS j,
         {passes.expression} AND image IN (FROM passing) AS kept
  FROM head_patterns, bounds {among.where} AND {x} IS NOT NULL
)
SELECT b[1] AS x0, b[2] AS x1, b[3] AS y0, b[4] AS y1, i, j, count(*) AS everything,
       count(*) FILTER (kept) AS kept
FROM cells, bounds GROUP BY ALL ORDER BY i, j""".strip(),
                 {**among.and_(passes, images).params, "most": most},
                 quick=quickly(_cloud, ask, kind, space, most))


def _cell(value: str, low: str, high: str) -> str:
    """Which of the map's cells along an axis a value is in."""
    span = f"({value}::DOUBLE - {low}) / coalesce(nullif({high} - {low}, 0), 1)"
    return f"greatest(0, least({CELLS - 1}, floor({span} * {CELLS})))::INTEGER"


def _cloud(ask: Ask, kind: str, space: str, most: int) -> pa.Table | None:
    bounds = ask.store.kept(f"SELECT {BOUNDS[space]} AS b FROM pattern_spaces WHERE kind = $kind",
                            {"kind": kind}).to_pylist()
    if not bounds:
        return None
    everything, kept = quick.cloud(ask, kind, space, most)
    i, j = np.nonzero(everything)
    ends = zip(("x0", "x1", "y0", "y1"), bounds[0]["b"], strict=True)
    return pa.table({**{name: np.full(len(i), end, float) for name, end in ends},
                     "i": i.astype(np.int32), "j": j.astype(np.int32),
                     "everything": everything[i, j], "kept": kept[i, j]})


def sample(ask: Ask, kind: str, space: str, most: int) -> Query:
    """Up to `most` heads on images, always the same ones: where they lie, whether they pass."""
    x, y = PLACES[space]
    among, passes = _of_kind(ask, kind), ask.where(_GRAIN)
    some = f"""
SELECT model, image, layer, head, {x} AS x, {y} AS y FROM head_patterns, (
  SELECT greatest(1, count(*) // $most) AS every FROM head_patterns {among.where}
) {among.where} AND {x} IS NOT NULL AND hash(model, image, layer, head) % every = 0
ORDER BY model, image, layer, head LIMIT $most""".strip()
    params = {**among.params, "most": most}
    return Query(f"SELECT *, {passes.expression} AS kept FROM (\n{some})",
                 {**params, **passes.params}, quick=lambda store: _marked(
                     ask, store.kept(some, params)))


def _marked(ask: Ask, rows: pa.Table) -> pa.Table:
    """The rows of heads on images, and whether they pass."""
    kept = ask.passing[rows["image"].to_numpy()]
    if ask.selection.heads:
        chosen = set(ask.selection.heads)
        keys = zip(*(rows[name].to_pylist() for name in ("model", "layer", "head")), strict=True)
        kept &= np.fromiter((key in chosen for key in keys), bool, len(kept))
    return rows.append_column("kept", pa.array(kept))


def clusters(ask: Ask, kind: str, space: str) -> Query:
    """A row per cluster and model on show: the cluster, the middle of its heads of that model in
    the map, how many heads that is, how many of them are chosen, and which they are."""
    x, y = PLACES[space]
    among, chosen = _of_kind(ask, kind), ask.where(("model", "layer", "head"))

    def counting(passes: str) -> str:
        return f"""
SELECT c.cluster, coalesce(c.name, '{NO_NAME}') AS name, c.agreement, c.heads AS all_heads, p.model,
       count(*) AS heads,
       count(*) FILTER ({passes}) AS chosen, avg(p.{x}) AS x, avg(p.{y}) AS y,
       string_agg(layer || '.' || head, ',' ORDER BY layer, head) AS keys
FROM (SELECT * FROM head_places {among.where}) p
JOIN (SELECT * FROM pattern_clusters WHERE kind = $kind) c USING (cluster)
GROUP BY ALL ORDER BY c.cluster, p.model""".strip()

    return Query(counting(chosen.expression), among.and_(chosen).params, quick=lambda store: _count(
        store.kept(counting("true"), among.params), ask.selection.heads))


def _count(clusters: pa.Table, chosen: Sequence[HeadKey]) -> pa.Table:
    """The clusters, and how many of their heads are chosen: all without any."""
    if not chosen:
        return clusters
    named = {(model, f"{layer}.{head}") for model, layer, head in chosen}
    counts = [sum((model, key) in named for key in keys.split(",")) for model, keys in zip(
        clusters["model"].to_pylist(), clusters["keys"].to_pylist(), strict=True)]
    place = clusters.column_names.index("chosen")
    return clusters.set_column(place, "chosen", pa.array(counts, pa.int64()))


def evidence(kind: str) -> Query:
    """A row per test and space: how good the space is."""
    return Query("SELECT test, detail, space, value, chance, low, high, better, text "
                 "FROM pattern_evidence WHERE kind = $kind ORDER BY test, detail, space",
                 {"kind": kind})


def fits(ask: Ask, kind: str) -> Query:
    """A row per model on show: whether the space was fitted on its heads, and how."""
    return Query("SELECT m.model, list_contains(s.models, m.model) AS fitted, s.patterns, "
                 "s.latent, s.epochs FROM pattern_spaces s, models m "
                 "WHERE s.kind = $kind AND m.model IN (SELECT unnest($models::VARCHAR[])) "
                 "ORDER BY m.model", {"kind": kind, "models": list(ask.models)})


def mean_patterns(model: str, kind: str) -> Query:
    """A row per head of a model: its mean pattern."""
    return Query(f"SELECT layer, head, {MEANS[kind]} AS pattern FROM heads WHERE model = $model "
                 f"AND {MEANS[kind]} IS NOT NULL ORDER BY layer, head", {"model": model})


def patterns_at(model: str, kind: str, image: int) -> Query:
    """A row per head of a model: its pattern on one image, in codes."""
    return Query(f"SELECT layer, head, \"{CODES[kind]}\" AS codes FROM pattern_inputs WHERE "
                 f"model = $model AND image = $image AND \"{CODES[kind]}\" IS NOT NULL "
                 "ORDER BY layer, head", {"model": model, "image": image})


def prototypes(kind: str) -> Query:
    """A row per cluster: the pattern that stands for it."""
    return Query("SELECT cluster, prototype FROM pattern_clusters WHERE kind = $kind "
                 "ORDER BY cluster", {"kind": kind})


def head_card(head: HeadKey) -> Query:
    """What is known of one head's pattern: one row, or none."""
    model, layer, number = head

    def quick(store: Store) -> pa.Table:
        rows = store.kept(f"{_CARD} FROM heads")
        own = pc.equal(rows["model"], model)
        for name, place in (("layer", layer), ("head", number)):
            own = pc.and_(own, pc.equal(rows[name], place))
        return rows.filter(own)

    return Query(f"{_CARD} FROM heads WHERE {_HEAD}", _key(head), quick=quick)


_CARD = ("SELECT model, layer, head, pattern, pattern_score, content_dependence, content_images, "
         "cluster, class_cluster, patch_pattern IS NOT NULL AS patch, "
         "class_pattern IS NOT NULL AS class")


def image_size(image: int) -> Query:
    return Query("SELECT image, path, label, width, height FROM images WHERE image = $image",
                 {"image": image}, quick=partial(image_facts, image=image))


def attention(head: HeadKey, image: int) -> Query:
    """A row per pair of tokens that see each other: query, key, weight. One row of the store is
    read: the head's matrix on that image."""
    params = {**_key(head), "image": image}

    return Query(f"""
SELECT a.*, {", ".join(f"l.{c}" for c in _GEOMETRY)}
FROM (SELECT * FROM attention WHERE {_HEAD} AND image = $image) a
JOIN (SELECT * FROM layers WHERE model = $model AND layer = $layer) l
USING (model, layer)""".strip(), params, _links, partial(_attention, head, image))


def _attention(head: HeadKey, image: int, store: Store) -> pa.Table | None:
    """The head's row group, with the geometry of its block."""
    model, layer, number = head
    row = row_groups.read(store, "attention", model, (image, layer, number))
    blocks = store.kept(f"SELECT model, layer, {', '.join(_GEOMETRY)} FROM layers")
    block = blocks.filter(pc.and_(pc.equal(blocks["model"], model),
                                  pc.equal(blocks["layer"], layer)))
    if row is None or not block.num_rows:
        return None
    for name in _GEOMETRY:
        row = row.append_column(name, block[name])
    return row


_GEOMETRY = [c.name for c in TABLES["layers"].columns if c.name not in ("model", "layer")]


def _links(store: Store, rows: pa.Table) -> pa.Table:
    """Once for the views of one matrix."""
    said = rows.select(_GRAIN).to_pylist()
    return store.memo.keep(("links", repr(said)), lambda: _unpacked(rows))


def _unpacked(rows: pa.Table) -> pa.Table:
    matrices = [kept.whole(kept.decode(row), row) for row in rows.to_pylist()]
    whole = matrices[0] if matrices else np.empty((0, 0), np.float32)
    query, key = np.nonzero(np.isfinite(whole))
    return pa.table({"query": pa.array(query, pa.int32()), "key": pa.array(key, pa.int32()),
                     "weight": pa.array(whole[query, key], pa.float32())})


def alike(ask: Ask, head: HeadKey, each: int) -> Query:
    """A row per model on show and head of it among the `each` most like `head`, the most alike
    first, and the one that the assignment gives it, of which alone `matched` is known. No row where
    the head has no pattern."""
    def nearest(store: Store, rows: pa.Table) -> pa.Table:
        return alike_of_each(store, head, ask.models, each)

    return Query("SELECT model, layer, head FROM heads WHERE patch_pattern IS NOT NULL "
                 "ORDER BY model, layer, head", {}, nearest, _with_a_pattern)


def _with_a_pattern(store: Store) -> pa.Table:
    """The heads that have one: model, layer, head."""
    found = heads_of(store)
    return pa.table({
        "model": pa.array([m for m, own in found.items() for _ in own.layer], pa.string()),
        **{c: pa.array(np.concatenate([np.empty(0, np.int16), *(
            getattr(own, c) for own in found.values())]), pa.int16()) for c in ("layer", "head")}})


def _of_kind(ask: Ask, kind: str) -> Predicate:
    return ask.models_only.and_(Predicate("kind = $kind", {"kind": kind}))


def _key(head: HeadKey) -> dict[str, object]:
    model, layer, number = head
    return {"model": model, "layer": layer, "head": number}
