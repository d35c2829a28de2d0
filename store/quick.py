"""Questions of `store.queries` answered with dense arrays in place of a scan of all rows.

Each gives what the SQL of its question gives, or None where the store has no series. `Series` of a
chart: a chosen head, or without any a model, whose value on an image is the mean over its heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import series
from store.bins import Counts, Row, exponent
from store.moments import Dense
from store.query import Ask
from store.schema import SUMMARISED, measure
from store.selection import HeadKey
from store.series import (
    NoSeriesError,
    by_image,
    counts,
    dense,
    profile,
    spread,
)
from store.series_tables import CELLS

Some = TypeVar("Some")
Made = TypeVar("Made")

SMALL, DOUBLE, BIG = pa.int16(), pa.float64(), pa.int64()
_KEY = {"model": pa.string(), "layer": SMALL, "head": SMALL}


_THREADS = ThreadPoolExecutor(2)
"""For reading arrays of several models, and adding up large ones, which let another thread run. All
else does so for such short times that threads wait for each other longer than they work."""


def _each(make: Callable[[str], Some | None], models: Iterable[str]) -> dict[str, Some]:
    """What is made of each model. Raises NoSeriesError where there is none of one."""
    found = {}
    for model in sorted(set(models)):
        if (made := make(model)) is None:
            raise NoSeriesError
        found[model] = made
    return found


def _dense(ask: Ask, name: str) -> dict[str, Dense]:
    """The measure of each model on show."""
    unread = [model for model in ask.models if not series.holds(ask.store, model, name)]
    list(_THREADS.map(lambda model: dense(ask.store, model, name), unread))
    return _each(lambda model: dense(ask.store, model, name), ask.models)


def _in_two(make: Callable[[Some], Made], items: Sequence[Some]) -> list[Made]:
    """What is made of each, half of it in another thread."""
    middle = len(items) // 2
    others = _THREADS.submit(lambda: [make(item) for item in items[middle:]])
    return [make(item) for item in items[:middle]] + others.result()


def _table(schema: Mapping[str, pa.DataType], columns: Mapping[str, object]) -> pa.Table:
    return pa.table({name: pa.array(columns[name], kind, from_pandas=True)
                     for name, kind in schema.items()})


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def head_values(ask: Ask, name: str) -> pa.Table:
    """As `queries.head_values` under a filter of images."""
    passing = ask.passing
    parts = _in_two(lambda one: _means(one[1], one[0], passing), list(_dense(ask, name).items()))
    rows = _table({**_KEY, "value": DOUBLE, "low": DOUBLE, "high": DOUBLE, "images": BIG},
                  _joined(parts))
    return rows if passing.any() else rows[:0]


_SUMMARIES = "SELECT model, layer, head, images, {} FROM heads ORDER BY model, layer, head".format(
    ", ".join(f"{m.name}_{end}" for m in SUMMARISED for end in ("mean", "low", "high")))


def summaries(ask: Ask, name: str) -> pa.Table:
    """As `queries.head_values` without a filter: of all measures at once, since one takes DuckDB
    as long."""
    rows = ask.store.kept(_SUMMARIES)
    own = rows.filter(pc.is_in(rows["model"], pa.array(ask.models, pa.string())))
    return own.select([*_KEY, f"{name}_mean", f"{name}_low", f"{name}_high", "images"]
                      ).rename_columns([*_KEY, "value", "low", "high", "images"])


def _means(own: Dense, model: str, passing: np.ndarray) -> dict[str, np.ndarray]:
    counts, mean, variance = own.over(passing)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = 1.96 * np.sqrt(variance / counts)
    return {"model": np.full(len(mean), model, object), "layer": own.layer, "head": own.head,
            "value": mean, "low": mean - reach, "high": mean + reach, "images": counts.astype(int)}


def baselines(ask: Ask) -> pa.Table:
    """As `queries.baselines`."""
    passing, found = ask.passing, []
    for model in sorted(set(ask.models)):
        rows = ask.store.kept("SELECT image, probability FROM predictions WHERE model = $model",
                              {"model": model})
        kept = passing[rows["image"].to_numpy()]
        values = rows["probability"].to_numpy(zero_copy_only=False)[kept].astype(float)
        known = values[np.isfinite(values)]
        if len(values):
            found.append((model, known.mean() if len(known) else np.nan, len(values)))
    columns = zip(("model", "probability", "images"), zip(*found, strict=True), strict=True)
    return _table({"model": pa.string(), "probability": DOUBLE, "images": BIG},
                  dict(columns) if found else {"model": [], "probability": [], "images": []})


def _series(ask: Ask, heads: Sequence[HeadKey]) -> list[tuple[str, HeadKey | None]]:
    """The series of a chart, in order."""
    chosen = sorted(h for h in set(heads) if h[0] in ask.models)
    return [(h[0], h) for h in chosen] if heads else [(m, None) for m in sorted(set(ask.models))]


def profiles(ask: Ask, heads: Sequence[HeadKey], focus: int | None) -> pa.Table:
    """As `queries.profiles`."""
    passing = ask.passing

    def one(series: tuple[str, HeadKey | None]) -> dict[str, np.ndarray]:
        model, head = series
        found = spread(ask.store, head) if head and passing.all() else ask.store.memo.keep(
            ("spread", model, head, ask.models, ask.selection.images.clauses),
            lambda: None if (own := profile(ask.store, model, head)) is None
            else own.spread(passing))
        if found is None:
            raise NoSeriesError
        at = np.full(len(found), np.nan)
        if focus is not None and (whole := profile(ask.store, model, head)) is not None:
            at = whole.values[:, focus]
        return {**_keys(model, head, len(found)), "hop": np.arange(len(found)), "focus": at,
                **dict(zip(("mean", "low", "high"), found.T, strict=False)),
                "n": found[:, 3].astype(int)}

    parts = list(map(one, _series(ask, heads)))
    schema = {**_KEY, "hop": BIG, "mean": DOUBLE, "low": DOUBLE, "high": DOUBLE, "focus": DOUBLE,
              "n": BIG}
    return _table(schema, _joined(parts)) if parts else _none(schema)


def _none(schema: Mapping[str, pa.DataType]) -> pa.Table:
    return pa.schema(list(schema.items())).empty_table()


def _keys(model: str, head: HeadKey | None, count: int) -> dict[str, np.ndarray]:
    layer, number = (None, None) if head is None else head[1:]
    return {"model": np.full(count, model, object), "layer": np.full(count, layer, object),
            "head": np.full(count, number, object)}


def histogram(ask: Ask, name: str, heads: Sequence[HeadKey]) -> pa.Table:
    """As `queries.histogram`."""
    passing = ask.passing
    counted: Mapping[tuple[str, HeadKey | None], Counts | Row] = \
        _chosen(ask, name, heads) if heads else {
            (model, None): own for model, own in
            _each(lambda model: counts(ask.store, model, name), ask.models).items()}
    known = {series: own for series, own in counted.items() if np.isfinite(own.low)}
    k = exponent(min(own.low for own in known.values()), max(own.high for own in known.values())) \
        if known else 0
    filled = [(series, own.over(passing, k)) for series, own in known.items()]
    schema = {**_KEY, "width": DOUBLE, "bin": BIG, "everything": BIG, "kept": BIG}
    return _table(schema, _joined([
        {**_keys(*series, len(own.bins)), "width": np.full(len(own.bins), 2.0**k),
         "bin": own.bins, "everything": own.everything, "kept": own.kept}
        for series, own in filled])) if filled else _none(schema)


def _chosen(ask: Ask, name: str, heads: Sequence[HeadKey]) -> dict[tuple[str, HeadKey | None], Row]:
    """The measure of each chosen head."""
    chosen = [head for _, head in _series(ask, heads) if head is not None]
    models = {m: [h for h in chosen if h[0] == m] for m, *_ in chosen}
    found = _each(lambda model: series.values(ask.store, model, name, models[model]), models)
    return {(m, head): Row(own) for m, heads in models.items()
            for head, own in zip(heads, found[m], strict=True)}


def at_image(ask: Ask, name: str, heads: Sequence[HeadKey], image: int) -> pa.Table:
    """As `queries.at_image`."""
    if heads:
        found = {key: own.values[image] for key, own in _chosen(ask, name, heads).items()}
    else:
        found = {(model, None): mean(*own[:, image:image + 1])[0] for model, own in
                 _each(lambda model: by_image(ask.store, model, name), ask.models).items()}
    keys = [_keys(model, head, 1) for model, head in found] or [_keys("", None, 0)]
    return _table({**_KEY, "value": DOUBLE},
                  {**_joined(keys), "value": np.array(list(found.values()), float)})


def mean(sums: np.ndarray, known: np.ndarray) -> np.ndarray:
    """NaN where nothing is known."""
    return np.divide(sums, known, out=np.full(len(sums), np.nan), where=known > 0)


def effect(ask: Ask, name: str, chosen: Sequence[HeadKey]) -> dict[str, np.ndarray]:
    """float64[image] of each model on show: the measure's sum and count over its chosen heads (all
    without any), as [2, image]."""
    def one(model: str) -> np.ndarray | None:
        heads = tuple(h for h in chosen if h[0] == model)
        return ask.store.memo.keep(("effect", model, name, heads), lambda: _totals(
            series.values(ask.store, model, name, heads))) if heads else \
            by_image(ask.store, model, name)
    return _each(one, ask.models)


def _totals(values: np.ndarray | None) -> np.ndarray | None:
    if values is None:
        return None
    known = np.isfinite(values)
    if known.all():
        return np.stack([values.sum(0, np.float64), np.full(values.shape[1], len(values))])
    return np.stack([np.where(known, values, 0).sum(0, np.float64), known.sum(0)])


def hardest(ask: Ask, name: str, count: int, paths: pa.Table) -> pa.Table:
    """As `queries.hardest`; `paths`: image, path and label of all images, by image."""
    means = mean(*np.sum(list(effect(ask, name, ask.selection.heads).values()), 0))
    numbers = np.flatnonzero(ask.passing & np.isfinite(means))
    order = means[numbers] if measure(name).important < 0 else -means[numbers]
    first = numbers[np.argsort(order, kind="stable")[:count]]
    return paths.take(pa.array(first)).append_column("effect", pa.array(means[first]))


def cloud(ask: Ask, kind: str, space: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """int[CELLS, CELLS] twice: how many patterns of heads on images lie in a cell of the map, and
    how many of them pass, on up to `most` of the images that do."""
    passing = np.flatnonzero(ask.passing)
    passing = passing[::max(1, -(-len(passing) // most))]
    chosen = ask.selection.heads
    everything, kept = (np.zeros(CELLS * CELLS + 1, int) for _ in range(2))
    for model in ask.models:
        own = series.cells(ask.store, model, kind, space)
        if own is None:
            raise NoSeriesError
        everything += own.count
        cells = own.values.take(passing, 0)
        kept += _histogram(cells if not chosen else
                           cells[:, own.rows_of([h for h in chosen if h[0] == model])])
    shape = CELLS, CELLS
    return everything[:-1].reshape(shape), kept[:-1].reshape(shape)


def _histogram(places: np.ndarray) -> np.ndarray:
    return np.bincount(places.ravel(), minlength=CELLS * CELLS + 1)


def places(ask: Ask, kind: str, space: str, image: int) -> pa.Table:
    """Model, layer, head, x, y and error of every head that has a place in the map on an image."""
    found = _each(lambda model: series.places(ask.store, model, kind, space, image), ask.models)
    parts = []
    for model, own in found.items():
        there = np.isfinite(own.values[:, 0])
        x, y, error = own.values[there].T
        parts.append({"model": np.full(len(x), model, object), "layer": own.layer[there],
                      "head": own.head[there], "x": x, "y": y, "error": error})
    single = pa.float32()
    return _table({**_KEY, "x": single, "y": single, "error": single}, _joined(parts))
