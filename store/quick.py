"""Questions of `store.queries` answered with dense arrays in place of a scan of all rows.

Each gives what the SQL of its question gives, or None where the store has no series. `Series` of a
chart: a chosen head, or without any a model, whose value on an image is the mean over its heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from store.query import Ask
from store.schema import measure
from store.selection import HeadKey
from store.series import Dense, Profile, cells, dense, profile
from store.series_tables import CELLS

SMALL, DOUBLE, BIG = pa.int16(), pa.float64(), pa.int64()
_KEY = {"model": pa.string(), "layer": SMALL, "head": SMALL}


class NoSeriesError(Exception):
    """The store has no series of a model: the question goes to the rows of all images."""


def _all(ask: Ask, name: str, models: Sequence[str] | None = None) -> dict[str, Dense]:
    """The measure of each model on show, by name."""
    found = {model: dense(ask.store, model, name)
             for model in sorted(set(ask.models if models is None else models))}
    if None in found.values():
        raise NoSeriesError
    return found  # type: ignore[return-value]


def _table(schema: Mapping[str, pa.DataType], columns: Mapping[str, object]) -> pa.Table:
    return pa.table({name: pa.array(columns[name], kind, from_pandas=True)
                     for name, kind in schema.items()})


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def head_values(ask: Ask, name: str) -> pa.Table:
    """As `queries.head_values` under a filter of images."""
    passing, parts = ask.passing, []
    for model, own in _all(ask, name).items():
        counts, mean, variance = own.over(passing)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = 1.96 * np.sqrt(variance / counts)
        parts.append({"model": np.full(len(mean), model, object), "layer": own.layer,
                      "head": own.head, "value": mean, "low": mean - reach, "high": mean + reach,
                      "images": counts.astype(int)})
    rows = _table({**_KEY, "value": DOUBLE, "low": DOUBLE, "high": DOUBLE, "images": BIG},
                  _joined(parts))
    return rows if passing.any() else rows[:0]


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
    passing, parts = ask.passing, []
    for model, head in _series(ask, heads):
        whole = profile(ask.store, model, head)
        if whole is None:
            raise NoSeriesError
        hops = len(whole.values)
        parts.append({**_keys(model, head, hops), **_spread(whole, passing, head is None),
                      "hop": np.arange(hops), "focus": np.full(hops, np.nan) if focus is None
                      else whole.values[:, focus]})
    schema = {**_KEY, "hop": BIG, "mean": DOUBLE, "low": DOUBLE, "high": DOUBLE, "focus": DOUBLE,
              "n": BIG}
    return _table(schema, _joined(parts)) if parts else pa.schema(list(schema.items())
                                                                  ).empty_table()


def _keys(model: str, head: HeadKey | None, count: int) -> dict[str, np.ndarray]:
    layer, number = (None, None) if head is None else head[1:]
    return {"model": np.full(count, model, object), "layer": np.full(count, layer, object),
            "head": np.full(count, number, object)}


def _spread(whole: Profile, passing: np.ndarray, again: bool) -> dict[str, np.ndarray]:
    """Mean, quartiles and count at each hop."""
    kept = passing & whole.known
    low, high = whole.quantiles(passing, (0.25, 0.75), again)
    mean = whole.values[:, kept].mean(1, dtype=np.float64) if kept.any() else low
    return {"mean": mean, "low": low, "high": high, "n": np.full(len(mean), kept.sum())}


def histogram(ask: Ask, name: str, heads: Sequence[HeadKey], bins: int) -> pa.Table:
    """As `queries.histogram`."""
    models = _all(ask, name, [h[0] for h in heads if h[0] in ask.models] if heads else None)
    rows = {model: own.rows_of([h for h in heads if h[0] == model]) if heads else slice(None)
            for model, own in models.items()}
    spans = [ask.store.memo.keep(("span", model, name, heads), partial(_span, own, rows[model]))
             for model, own in models.items()]
    known = np.array([end for span in spans for end in span if np.isfinite(end)])
    passing = ask.passing.astype(np.float32)
    parts = [part for model, own in models.items() if len(known) for part in _counts(
        ask, name, model, own, rows[model], (known.min(), known.max()), bins, passing)]
    schema = {**_KEY, "lo": DOUBLE, "hi": DOUBLE, "bin": pa.int32(), "everything": BIG, "kept": BIG}
    return _table(schema, _joined(parts)) if parts else pa.schema(list(schema.items())
                                                                  ).empty_table()


def _span(own: Dense, rows: np.ndarray | slice) -> np.ndarray:
    """float[2]: the least and the largest value; NaN where there is none."""
    values = own.values[rows]
    known = values[np.isfinite(values)]
    return np.array([known.min(), known.max()]) if known.size else np.full(2, np.nan)


def _counts(ask: Ask, name: str, model: str, own: Dense, rows: np.ndarray | slice,
            span: tuple[float, float], bins: int, passing: np.ndarray
            ) -> Iterator[dict[str, np.ndarray]]:
    """The bins of each series of a model that hold anything."""
    if isinstance(rows, slice):
        by_image = ask.store.memo.keep(("bins", model, name, span, bins), lambda: _by_image(
            own.values, span, bins))
        yield from _filled(model, None, by_image.sum(0, dtype=np.float64), passing @ by_image, span)
        return
    for row in rows:
        place = _bin(own.values[row], span, bins)
        there = place >= 0
        yield from _filled(
            model, (model, own.layer[row], own.head[row]),
            np.bincount(place[there], minlength=bins),
            np.bincount(place[there & (passing > 0)], minlength=bins), span)


def _bin(values: np.ndarray, span: tuple[float, float], bins: int) -> np.ndarray:
    """int[...]: the bin of each value; -1 of what is undefined."""
    low, high = map(float, span)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.floor((values.astype(np.float64) - low) / (high - low) * bins)
    place = np.where(np.isnan(place), 0, np.minimum(place, bins - 1))
    return np.where(np.isfinite(values), place, -1).astype(np.int32)


def _by_image(values: np.ndarray, span: tuple[float, float], bins: int) -> np.ndarray:
    """float32[image, bin]: how many heads are in the bin on the image."""
    count = values.shape[1]
    starts = 1 + (bins + 1) * np.arange(count, dtype=np.int32)
    place = starts + _bin(values, span, bins)
    found = np.bincount(place.ravel(), minlength=(bins + 1) * count)
    return found.reshape(count, bins + 1)[:, 1:].astype(np.float32)


def _filled(model: str, head: HeadKey | None, everything: np.ndarray, kept: np.ndarray,
            span: tuple[float, float]) -> Iterator[dict[str, np.ndarray]]:
    bins = np.flatnonzero(everything)
    yield {**_keys(model, head, len(bins)), "lo": np.full(len(bins), span[0], float),
           "hi": np.full(len(bins), span[1], float), "bin": bins,
           "everything": everything[bins].astype(int), "kept": np.rint(kept[bins]).astype(int)}


def at_image(ask: Ask, name: str, heads: Sequence[HeadKey], image: int) -> pa.Table:
    """As `queries.at_image`."""
    series = _series(ask, heads)
    models = _all(ask, name, [model for model, _ in series])
    values = []
    for model, head in series:
        own = models[model]
        rows = slice(None) if head is None else own.rows_of([head])
        column = own.values[rows][:, image].astype(np.float64)
        known = column[np.isfinite(column)]
        values.append(known.mean() if len(known) else np.nan)
    keys = [_keys(model, head, 1) for model, head in series] or [_keys("", None, 0)]
    return _table({**_KEY, "value": DOUBLE}, {**_joined(keys), "value": np.array(values, float)})


def mean(sums: np.ndarray, known: np.ndarray) -> np.ndarray:
    """NaN where nothing is known."""
    return np.divide(sums, known, out=np.full(len(sums), np.nan), where=known > 0)


def effect(ask: Ask, name: str, chosen: Sequence[HeadKey]) -> dict[str, np.ndarray]:
    """float64[image] of each model on show: the measure's sum and count over its chosen heads (all
    without any), as [2, image]."""
    found = {}
    for model, own in _all(ask, name).items():
        heads = tuple(h for h in chosen if h[0] == model)
        found[model] = ask.store.memo.keep(("effect", model, name, heads),
                                           partial(_totals, own, heads))
    return found


def _totals(own: Dense, heads: Sequence[HeadKey]) -> np.ndarray:
    values = own.values[own.rows_of(heads) if heads else slice(None)]
    known = np.isfinite(values)
    return np.stack([np.where(known, values, 0).sum(0, dtype=np.float64), known.sum(0)])


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
        own = cells(ask.store, model, kind, space)
        if own is None:
            raise NoSeriesError
        everything += ask.store.memo.keep(
            ("cloud", model, kind, space), partial(_histogram, own.values))
        rows = own.rows_of([h for h in chosen if h[0] == model]) if chosen else slice(None)
        kept += _histogram(own.values[rows][:, passing])
    shape = CELLS, CELLS
    return everything[:-1].reshape(shape), kept[:-1].reshape(shape)


def _histogram(places: np.ndarray) -> np.ndarray:
    return np.bincount(places.ravel(), minlength=CELLS * CELLS + 1)
