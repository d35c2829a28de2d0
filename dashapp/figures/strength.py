"""Attention Strength: entropy across layers, strength across hops, distribution over images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from dashapp import theme
from dashapp.chart import Figure, numbers, say
from dashapp.facts import Model
from dashapp.figures.heads import Values, places
from dashapp.figures.panes import short_name
from dashapp.theme import plain
from store.schema import TABLES, Column
from store.selection import HeadKey

HEIGHT = 245
HOP_STRENGTH = TABLES["head_strength"].column("hop_strength")
_KEY = ("model", "layer", "head")
SERIES = 8
"""How many heads are overlaid at once."""


def layers(values: Values, models: list[Model], column: Column, chosen: tuple[HeadKey, ...],
           depth: bool) -> Figure:
    """A dot per head: x = its layer (spread by head), y = the measure's mean over the images."""
    figure = theme.bare(HEIGHT)
    figure["data"] = [_heads(values, model, column, chosen, depth, i, len(models))
                      for i, model in enumerate(models)]
    if column.name == "hop_entropy":
        _maxima(figure["layout"], models)
    deepest = max(m.layers for m in models) - 1
    beside = 0.55 / max(1, min(m.layers for m in models) - 1)
    figure["layout"] |= {
        "dragmode": "lasso",
        "xaxis": {"title": {"text": "normalised depth: layer / last layer" if depth else
                            "layer (heads side by side)"},
                  "range": [-beside, 1 + beside] if depth else [-0.6, deepest + 0.6],
                  "showgrid": False,
                  **({} if depth else {"dtick": max(1, math.ceil(deepest / 14)), "tick0": 0})},
        "yaxis": {"title": {"text": column.title}}}
    return figure


def _heads(values: Values, model: Model, column: Column, chosen: tuple[HeadKey, ...], depth: bool,
           i: int, count: int) -> dict:
    said, texts, which = values.hover(model, column, "y")
    trace: dict = {
        "type": "scatter", "x": _x(model.layers, model.heads, i, count, depth),
        "y": numbers(values.model(model).ravel()), "mode": "markers", "name": plain(model.name),
        "marker": {"color": theme.model_colour(model.index),
                   "symbol": theme.model_symbol(model.index), "size": 7, "opacity": 0.8,
                   "line": {"width": 0.5, "color": "#ffffff"}},
        "customdata": numbers(said.reshape(-1, said.shape[-1])), "meta": {"model": model.name},
        "selected": {"marker": {"opacity": 1, "size": 10}},
        "unselected": {"marker": {"color": theme.FAINT, "opacity": 0.6}}}
    say(trace, texts, which.ravel())
    if chosen:
        trace["selectedpoints"] = places(chosen, model)
    return trace


@lru_cache(64)
def _x(layers: int, heads: int, i: int, count: int, depth: bool) -> dict:
    """float[heads of all layers]: the heads of a layer side by side, a little aside for each model
    so that those of one shape do not hide others; packed."""
    spread = 0.7 / heads
    aside = (i - (count - 1) / 2) * spread / (count + 1)
    layer, head = np.indices((layers, heads))
    x = layer + (head - (heads - 1) / 2) * spread + aside
    return numbers((x / max(1, layers - 1) if depth else x).ravel())


def _maxima(layout: dict, models: list[Model]) -> None:
    """A dashed line at ln K, the most that hop entropy can be, one for each K."""
    highest = max(m.hops for m in models)
    for hops in sorted({m.hops for m in models}):
        owners = [m for m in models if m.hops == hops]
        colour = theme.model_colour(owners[0].index) if len(owners) == 1 else theme.MUTED
        names = "" if len(owners) == len(models) else \
            " " + " ".join(theme.glyph(m.index) for m in owners)
        layout["shapes"].append({
            "type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y",
            "y0": math.log(hops), "y1": math.log(hops),
            "line": {"color": colour, "width": 1, "dash": "dash"}})
        layout["annotations"].append({
            "text": f"ln {hops}{names}", "xref": "x domain", "x": 1.005, "xanchor": "left",
            "yref": "y", "y": math.log(hops), "font": {"size": 11, "color": colour},
            "yanchor": "bottom" if hops == highest else "top", "showarrow": False})
    most = max(Counter(m.hops for m in models).values())
    layout["margin"] = theme.margins(r=44 + 13 * most)


@dataclass(frozen=True)
class Series:
    """One overlaid curve: a head, or a model with all its heads (layer and head are None)."""

    model: Model
    layer: int | None
    head: int | None
    colour: str
    dash: str

    @property
    def name(self) -> str:
        model = plain(short_name(self.model.name, 18))
        return model if self.layer is None else f"{model} {self.layer}.{self.head}"

    @property
    def key(self) -> tuple:
        return (self.model.name, self.layer, self.head)


def series_of(models: list[Model], heads: tuple[HeadKey, ...]) -> list[Series]:
    """What to overlay; heads of one model share its hue and differ in shade and dash."""
    if not heads:
        return [Series(m, None, None, theme.model_colour(m.index), "solid") for m in models]
    shades, dashes = (0, -0.45, 0.35, -0.25, 0.5), ("solid", "dash", "dot", "dashdot")
    found, seen = [], dict.fromkeys((m.name for m in models), 0)
    by_name = {m.name: m for m in models}
    for name, layer, head in heads:
        nth, model = seen[name], by_name[name]
        seen[name] += 1
        found.append(Series(model, layer, head, theme.shade(
            theme.model_colour(model.index), shades[nth % len(shades)]), dashes[nth % len(dashes)]))
    return found


def hops(rows: pa.Table, series: list[Series], by_side: bool, per_head: bool) -> Figure:
    """Mean strength per hop, with its quartiles as a band and the focused image dashed."""
    figure = theme.bare(HEIGHT)
    found = _by_key(rows)
    for one in series:
        points = _where(found.get(one.key, []), "mean")
        if points:
            figure["data"] += _band(points, one, by_side)
        focus = _where(found.get(one.key, []), "focus")
        if focus:
            figure["data"].append({
                "type": "scatter", "x": _hop_x(focus, one, by_side),
                "y": _column(focus, "focus"), "mode": "lines",
                "line": {"color": one.colour, "width": 1.5, "dash": "dot"}, "showlegend": False,
                "name": f"{one.name}, focused image", "hovertemplate": "%{y:.4~g}"})
    figure["layout"] |= {
        "showlegend": per_head, "hovermode": "closest", "dragmode": "zoom",
        "margin": theme.margins(t=34 if per_head else 10),
        "xaxis": {"title": {"text": "hop / grid side (share of side)" if by_side else
                            "hop (patches, Chebyshev distance)"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": HOP_STRENGTH.title}, "rangemode": "tozero",
                  "exponentformat": "power"}}
    return figure


def _by_key(rows: pa.Table) -> dict[tuple, list[dict]]:
    """The rows of each series."""
    found: dict[tuple, list[dict]] = {}
    for row in rows.to_pylist():
        found.setdefault(tuple(row[c] for c in _KEY), []).append(row)
    return found


def _where(rows: list[dict], name: str) -> list[dict]:
    """The rows that have a value there."""
    return [r for r in rows if r[name] is not None and not math.isnan(r[name])]


def _column(points: Iterable[dict], name: str) -> dict:
    return numbers(np.array([r[name] for r in points], float))


def _hop_x(points: list[dict], one: Series, by_side: bool) -> dict:
    return numbers(np.array([r["hop"] for r in points]) / (one.model.hops if by_side else 1))


def _band(points: list[dict], one: Series, by_side: bool) -> list[dict]:
    hop, high, low, n = (np.array([r[c] for r in points], float)
                         for c in ("hop", "high", "low", "n"))
    x = hop / (one.model.hops if by_side else 1)
    return [
        {"type": "scatter", "x": numbers(np.concatenate([x, x[::-1]])),
         "y": numbers(np.concatenate([high, low[::-1]])), "mode": "lines", "fill": "toself",
         "line": {"width": 0}, "fillcolor": theme.tint(one.colour, 0.13), "hoverinfo": "skip",
         "showlegend": False},
        {"type": "scatter", "x": numbers(x), "y": _column(points, "mean"),
         "mode": "lines+markers", "name": one.name,
         "line": {"color": one.colour, "width": 1.8, "dash": one.dash},
         "marker": {"size": 5, "symbol": theme.model_symbol(one.model.index)},
         "customdata": numbers(np.stack([hop, low, high, n], -1)),
         "hovertemplate": f"<b>{one.name}</b>, hop %{{customdata[0]}}<br>mean %{{y:.4~g}}, "
                          "quartiles %{customdata[1]:.4~g} to %{customdata[2]:.4~g}<br>over "
                          "%{customdata[3]:,} images<extra></extra>"}]


def distribution(rows: pa.Table, series: list[Series], column: Column,
                 focus: dict[tuple, float], filtered: bool, per_head: bool) -> Figure:
    """Histograms as steps, each of area 1 over its bins; grey outlines are without the filter."""
    figure = theme.bare(HEIGHT)
    edges, first = _edges(rows)
    found = _counts(rows, first, len(edges) - 1)
    for one in series:
        every, kept = found.get(one.key, np.zeros((2, len(edges) - 1)))
        if filtered and every.sum():
            figure["data"].append(_steps(edges, every, one, theme.FAINT, ghost=True))
        if kept.sum():
            figure["data"].append(_steps(edges, kept, one, one.colour, ghost=False))
        value = focus.get(one.key)
        if value is not None and not math.isnan(value):
            figure["layout"]["shapes"].append({
                "type": "line", "xref": "x", "x0": value, "x1": value, "yref": "y domain",
                "y0": 0, "y1": 1, "line": {"color": one.colour, "width": 2, "dash": "dot"}})
    what = "images" if per_head else "heads × images"
    figure["layout"] |= {
        "showlegend": per_head, "dragmode": "zoom",
        "margin": theme.margins(t=34 if per_head else 10),
        "xaxis": {"title": {"text": column.title}, "range": [float(edges[0]), float(edges[-1])]},
        "yaxis": {"title": {"text": f"share of {what}"}, "rangemode": "tozero",
                  "tickformat": ".0%"}}
    return figure


def _edges(rows: pa.Table) -> tuple[np.ndarray, int]:
    """float[bin + 1], from the first bin that holds anything to the last; and the first's number.
    """
    if not rows.num_rows:
        return np.array([0.0, 1.0]), 0
    bins = rows["bin"].to_numpy()
    return np.arange(bins.min(), bins.max() + 2) * rows["width"][0].as_py(), int(bins.min())


def _counts(rows: pa.Table, first: int, bins: int) -> dict[tuple, np.ndarray]:
    """float[2, bins] of each series: how many are in a bin, and how many of them pass."""
    keys = list(zip(*(rows[c].to_pylist() for c in _KEY), strict=True))
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    counts = np.zeros((len(place), 2, bins))
    which, own = [place[key] for key in keys], rows["bin"].to_numpy() - first
    for i, column in enumerate(("everything", "kept")):
        counts[which, i, own] = rows[column].to_numpy()
    return dict(zip(place, counts, strict=True))


def _steps(edges: np.ndarray, counts: np.ndarray, one: Series, colour: str, ghost: bool) -> dict:
    share = counts / counts.sum()
    look = {"type": "scatter", "x": numbers(edges), "y": numbers(np.append(share, share[-1])),
            "mode": "lines", "name": one.name, "showlegend": not ghost,
            "line": {"shape": "hv", "color": colour, "width": 1 if ghost else 1.6,
                     "dash": "solid" if ghost else one.dash}}
    if ghost:
        return {**look, "hoverinfo": "skip"}
    said = np.stack([edges[:-1], edges[1:], counts], -1)
    return {**look, "fill": "tozeroy", "fillcolor": theme.tint(one.colour, 0.12),
            "customdata": numbers(np.vstack([said, said[-1]])),
            "hovertemplate": f"<b>{one.name}</b><br>%{{customdata[0]:.4~g}} to "
                             "%{customdata[1]:.4~g}<br>%{y:.1%} (%{customdata[2]:,} of "
                             f"{counts.sum():,.0f})<extra></extra>"}
