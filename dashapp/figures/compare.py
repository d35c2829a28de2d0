"""Measures along the layers, against each other, and in matched heads of two models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from dashapp import pictures, theme
from dashapp.chart import Figure, numbers
from dashapp.facts import Model
from dashapp.figures.panes import short_name
from dashapp.figures.pattern_map import Paint
from dashapp.theme import plain
from store.compare_queries import spearman
from store.grids import coded
from store.schema import Column
from store.selection import HeadKey

TREND_HEIGHT, HEIGHT = 330, 330
SVG_POINTS = 2000
MATCHED, UNMATCHED = "#2f7f6f", "#a9b2ba"
BANDS = {"quartiles": ("q1", "q3"), "range": ("low", "high")}
"""The columns of `compare_queries.trend` that bound each band."""


def bare(height: int, **layout: Any) -> Figure:
    """The page's bare figure, with more of a layout."""
    figure = theme.bare(height)
    figure["layout"] |= layout
    return figure


def trends(rows: pa.Table, models: list[Model], column: Column, band: str, by_depth: bool,
           chosen: pa.Table | None) -> Figure:
    """A line per model over its layers, in a band; `chosen` are heads to draw as dots."""
    figure = bare(TREND_HEIGHT, dragmode="zoom", margin=theme.margins(l=60),
                  xaxis={"title": {"text": "normalised depth: layer / last layer" if by_depth else
                                   "layer"}, "showgrid": False},
                  yaxis={"title": {"text": theme.wrapped(column.title, 34)}})
    names, code = coded(rows["model"])
    found = {name: rows[name].to_numpy() for name in rows.column_names if name != "model"}
    for model in models:
        if model.name in names:
            own = np.flatnonzero((code == names.index(model.name)) & np.isfinite(found["mean"]))
            figure["data"] += _trend({name: values[own] for name, values in found.items()}, model,
                                     column, BANDS[band], by_depth)
    if chosen is not None:
        figure["data"] += _dots(chosen, models, column, by_depth)
    return figure


def _trend(found: Mapping[str, np.ndarray], model: Model, column: Column, band: tuple[str, str],
           by_depth: bool) -> list[dict]:
    x = found["depth" if by_depth else "layer"].astype(float)
    low, high = (found[name] for name in band)
    colour = theme.model_colour(model.index)
    facts = np.stack([found[n] for n in ("layer", "q1", "q3", "low", "high", "heads")], -1)
    edge = np.concatenate([low, high[::-1]])
    return [
        {"type": "scatter", "mode": "lines", "fill": "toself", "hoverinfo": "skip", "meta": {},
         "x": numbers(np.concatenate([x, x[::-1]])), "y": numbers(edge),
         "line": {"width": 0}, "fillcolor": theme.tint(colour, 0.12)},
        {"type": "scatter", "mode": "lines+markers", "x": numbers(x), "y": numbers(found["mean"]),
         "name": plain(model.name), "meta": {"model": model.name},
         "line": {"color": colour, "width": 1.8},
         "marker": {"size": 6, "symbol": theme.model_symbol(model.index), "color": colour},
         "customdata": facts.tolist(),
         "hovertemplate": f"<b>{plain(model.name)}</b> layer %{{customdata[0]}}<br>"
                          f"{column.label} %{{y:.4g}} {column.unit}, mean of %{{customdata[5]}} "
                          "heads<br>quartiles %{customdata[1]:.4g} to %{customdata[2]:.4g}<br>"
                          "all %{customdata[3]:.4g} to %{customdata[4]:.4g}<extra></extra>"}]


def _dots(chosen: pa.Table, models: list[Model], column: Column, by_depth: bool) -> list[dict]:
    """The chosen heads, a trace a model."""
    found: dict[str, list[dict]] = {}
    for row in chosen.to_pylist():
        found.setdefault(row["model"], []).append(row)
    last = {m.name: max(1, m.layers - 1) if by_depth else 1 for m in models}
    return [
        {"type": "scatter", "mode": "markers", "name": plain(model.name), "meta": {},
         "x": [r["layer"] / last[model.name] for r in found[model.name]],
         "y": [r["value"] for r in found[model.name]],
         "customdata": [[r["layer"], r["head"]] for r in found[model.name]],
         "marker": {"symbol": f"{theme.model_symbol(model.index)}-open", "size": 9,
                    "color": theme.ACCENT, "line": {"width": 1.5}},
         "hovertemplate": f"<b>{plain(model.name)}</b> layer %{{customdata[0]}}, head "
                          f"%{{customdata[1]}}<br>{column.label} %{{y:.4g}} {column.unit}"
                          "<extra></extra>"}
        for model in models if model.name in found]


def against(rows: pa.Table, models: list[Model], axes: tuple[Column, Column], colours: Paint,
            chosen: tuple[HeadKey, ...], marked: dict[str, HeadKey | None]) -> Figure:
    """A dot per head: one measure over another. `marked`: heads with a ring, by name."""
    x, y = axes
    figure = bare(HEIGHT, dragmode="lasso", margin=theme.margins(l=60),
                  xaxis={"title": {"text": x.title}}, yaxis={"title": {
                      "text": theme.wrapped(y.title, 34)}}, shapes=_rings(rows, marked))
    if colours.axis:
        figure["layout"]["coloraxis"] = colours.axis
    names, code = coded(rows["model"])
    keys = [list(key) for key in zip(*(rows[c].to_pylist() for c in ("model", "layer", "head")),
                                     strict=True)]
    wanted = {tuple(key) for key in chosen}
    found = {name: rows[name].to_numpy() for name in ("x", "y", "pattern")}
    for model in models:
        if model.name in names:
            own = np.flatnonzero(code == names.index(model.name))
            figure["data"].append(_heads(
                {name: values[own] for name, values in found.items()}, model, axes,
                colours.numbers[own], colours.axis is not None, [keys[i] for i in own], wanted,
                rows.num_rows > SVG_POINTS))
    return figure


def _heads(rows: Mapping[str, np.ndarray], model: Model, axes: tuple[Column, Column],
           shades: np.ndarray, painted: bool, keys: list[list], chosen: set, gl: bool) -> dict:
    known = painted and np.isfinite(shades).any()
    marker = {"color": numbers(shades), "coloraxis": "coloraxis"} if known else \
        {"color": theme.MUTED if painted else theme.model_colour(model.index)}
    trace = {
        "type": "scattergl" if gl else "scatter", "mode": "markers", "name": plain(model.name),
        "x": numbers(rows["x"]), "y": numbers(rows["y"]),
        "customdata": keys, "text": rows["pattern"].tolist(), "hoverinfo": "none",
        "marker": {**marker, "symbol": theme.model_symbol(model.index), "size": 8, "opacity": 0.85,
                   "line": {"width": 0.5, "color": theme.PAPER}},
        "selected": {"marker": {"opacity": 1, "size": 10}},
        "unselected": {"marker": {"color": theme.FAINT, "opacity": 0.6}},
        "meta": {"model": model.name, "axes": [axis.title for axis in axes], "picture": {
            "url": pictures.head_url(model.name, "patch", None), "rows": model.layers,
            "columns": model.heads, "kind": "patch"}}}
    if chosen:
        trace["selectedpoints"] = [i for i, key in enumerate(keys) if tuple(key) in chosen]
    return trace


def _rings(rows: pa.Table, marked: dict[str, HeadKey | None]) -> list[dict]:
    """Circles around the heads that have a name here, where both measures are defined."""
    looks = {"opened": "solid", "pinned": "dot"}
    found = []
    for name, head in marked.items():
        place = None if head is None else _place(rows, head)
        x, y = (math.nan, math.nan) if place is None else (
            _float(rows[a][place].as_py()) for a in "xy")
        if math.isfinite(x) and math.isfinite(y):
            radius = 9 if name == "opened" else 12
            found.append({"type": "circle", "xsizemode": "pixel", "ysizemode": "pixel",
                          "name": name, "xanchor": x, "yanchor": y, "x0": -radius, "x1": radius,
                          "y0": -radius, "y1": radius,
                          "line": {"color": theme.ACCENT, "width": 2, "dash": looks[name]}})
    return found


def _place(rows: pa.Table, head: HeadKey) -> int | None:
    names, code = coded(rows["model"])
    if head[0] not in names:
        return None
    found = np.flatnonzero((code == names.index(head[0])) & (rows["layer"].to_numpy() == head[1])
                           & (rows["head"].to_numpy() == head[2]))
    return int(found[0]) if len(found) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def correlations(rows: pa.Table) -> dict[str, float]:
    """model -> Spearman's rho of x and y over its heads; NaN where that is undefined."""
    names, code = coded(rows["model"])
    x, y = (rows[a].to_numpy().astype(float) for a in "xy")
    return {name: spearman(x[code == i], y[code == i]) for i, name in enumerate(names)}


def matched(rows: pa.Table, pair: tuple[Model, Model], column: Column,
            chosen: tuple[HeadKey, ...]) -> Figure:
    """A dot per matched pair of heads: the measure in one model over that in the other, on the
    diagonal where they are equal."""
    x, y = (rows[c].to_numpy().astype(float) for c in ("value", "other_value"))
    low, high = _span(np.concatenate([x, y]))
    axes = [{"title": {"text": f"{theme.glyph(model.index)} {plain(short_name(model.name, 28))}<br>"
                               f"{column.title}"}, "range": [low, high]} for model in pair]
    equal = {"type": "line", "x0": low, "x1": high, "y0": low, "y1": high, "name": "equal",
             "layer": "below", "line": {"color": theme.FAINT, "width": 1, "dash": "dash"}}
    figure = bare(HEIGHT, dragmode="lasso", margin=theme.margins(l=74, b=58),
                  xaxis=axes[0], yaxis=axes[1], shapes=[equal])
    sure = rows["matched"].fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    for own, says in ((~sure, "no match"), (sure, "matched")):
        if own.any():
            figure["data"].append(_pairs(rows.filter(pa.array(own)), pair, column, says,
                                         _of_these(rows, set(chosen))))
    return figure


def _of_these(rows: pa.Table, chosen: set) -> set:
    """The chosen heads, if one of them is in any of the pairs."""
    paired = {key for side in ("", "other_") for key in zip(
        *(rows[f"{side}{c}"].to_pylist() for c in ("model", "layer", "head")), strict=True)}
    return chosen & paired


def _marked(model: Model) -> str:
    return f"{theme.glyph(model.index)} {plain(model.name)}"


def _span(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _pairs(rows: pa.Table, pair: tuple[Model, Model], column: Column, says: str, chosen: set
           ) -> dict:
    one, other = ([[model.name, *key] for key in zip(
        rows[f"{side}layer"].to_pylist(), rows[f"{side}head"].to_pylist(), strict=True)]
        for model, side in zip(pair, ("", "other_"), strict=True))
    sure = says == "matched"
    named = [f"<b>{_marked(model)}</b> layer %{{customdata[{i}][1]}}, head "
             f"%{{customdata[{i}][2]}}: %{{{axis}:.4g}} {column.unit}"
             for i, (model, axis) in enumerate(zip(pair, "xy", strict=True))]
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "markers", "name": says, "meta": {"pairs": True},
        "x": numbers(rows["value"].to_numpy()), "y": numbers(rows["other_value"].to_numpy()),
        "customdata": [list(keys) for keys in zip(one, other, strict=True)],
        "text": [f"similarity {s:.2f}" for s in rows["similarity"].to_pylist()],
        "hovertemplate": "<br>".join([*named, f"%{{text}}, {says}<extra></extra>"]),
        "marker": {"symbol": "circle" if sure else "circle-open", "size": 9 if sure else 7,
                   "color": MATCHED if sure else UNMATCHED, "opacity": 0.9},
        "selected": {"marker": {"opacity": 1, "color": theme.ACCENT}},
        "unselected": {"marker": {"opacity": 0.35}}}
    if chosen:
        trace["selectedpoints"] = [i for i, keys in enumerate(zip(one, other, strict=True))
                                   if any(tuple(key) in chosen for key in keys)]
    return trace
