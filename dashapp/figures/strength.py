"""Attention Strength: entropy across layers, strength across hops, distribution over images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from dashapp import theme
from dashapp.facts import Model
from dashapp.figures.heads import Values
from dashapp.figures.panes import short_name
from dashapp.theme import plain
from store.schema import TABLES, Column
from store.selection import HeadKey

HEIGHT = 245
HOP_STRENGTH = TABLES["head_strength"].column("hop_strength")
SERIES = 8
"""How many heads are overlaid at once."""


def layers(values: Values, models: list[Model], column: Column, chosen: tuple[HeadKey, ...],
           depth: bool) -> go.Figure:
    """A dot per head: x = its layer (spread by head), y = the measure's mean over the images."""
    figure = theme.bare(HEIGHT)
    for i, model in enumerate(models):
        figure.add_trace(_heads(values, model, column, chosen, depth, i, len(models)))
    if column.name == "hop_entropy":
        _maxima(figure, models)
    deepest = max(m.layers for m in models) - 1
    beside = 0.55 / max(1, min(m.layers for m in models) - 1)
    figure.update_layout(
        dragmode="lasso",
        xaxis={"title": {"text": "normalised depth: layer / last layer" if depth else
                         "layer (heads side by side)"},
               "range": [-beside, 1 + beside] if depth else [-0.6, deepest + 0.6],
               "showgrid": False,
               **({} if depth else {"dtick": max(1, math.ceil(deepest / 14)), "tick0": 0})},
        yaxis={"title": {"text": column.title}})
    return figure


def _heads(values: Values, model: Model, column: Column, chosen: tuple[HeadKey, ...], depth: bool,
           i: int, count: int) -> go.Scatter:
    keys = [(model.name, layer, head) for layer in range(model.layers)
            for head in range(model.heads)]
    spread = 0.7 / model.heads
    aside = (i - (count - 1) / 2) * spread / (count + 1)  # models of one shape do not hide others
    x = np.array([layer + (head - (model.heads - 1) / 2) * spread + aside
                  for _, layer, head in keys])
    if depth:
        x = x / max(1, model.layers - 1)
    colour = theme.model_colour(model.index)
    trace = go.Scatter(
        x=x, y=values.model(model).ravel(), mode="markers", name=plain(model.name),
        marker={"color": colour, "symbol": theme.model_symbol(model.index), "size": 7,
                "opacity": 0.8, "line": {"width": 0.5, "color": "#ffffff"}},
        customdata=[list(k) for k in keys], text=[values.hover(k, column) for k in keys],
        hovertemplate="%{text}<extra></extra>", meta={"model": model.name},
        selected={"marker": {"opacity": 1, "size": 10}},
        unselected={"marker": {"color": theme.FAINT, "opacity": 0.6}})
    if chosen:
        trace.selectedpoints = [j for j, k in enumerate(keys) if k in set(chosen)]
    return trace


def _maxima(figure: go.Figure, models: list[Model]) -> None:
    """A dashed line at ln K, the most that hop entropy can be, one for each K."""
    highest = max(m.hops for m in models)
    for hops in sorted({m.hops for m in models}):
        owners = [m for m in models if m.hops == hops]
        colour = theme.model_colour(owners[0].index) if len(owners) == 1 else theme.MUTED
        names = "" if len(owners) == len(models) else \
            " " + " ".join(theme.glyph(m.index) for m in owners)
        figure.add_hline(y=math.log(hops), line={"color": colour, "width": 1, "dash": "dash"},
                         annotation={"text": f"ln {hops}{names}", "xanchor": "left",
                                     "font": {"size": 11, "color": colour}, "x": 1.005,
                                     "yanchor": "bottom" if hops == highest else "top"})
    most = max(sum(m.hops == k.hops for m in models) for k in models)
    figure.update_layout(margin={"r": 44 + 13 * most})


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


def hops(rows: pa.Table, series: list[Series], by_side: bool, per_head: bool) -> go.Figure:
    """Mean strength per hop, with its quartiles as a band and the focused image dashed."""
    figure = theme.bare(HEIGHT)
    by_key: dict[tuple, list[dict]] = {}
    for row in rows.to_pylist():
        by_key.setdefault((row["model"], row["layer"], row["head"]), []).append(row)
    for one in series:
        points = [r for r in by_key.get(one.key, []) if r["mean"] is not None]
        if points:
            figure.add_traces(_band(points, one, by_side))
        focus = [r for r in by_key.get(one.key, []) if r["focus"] is not None]
        if focus:
            figure.add_trace(go.Scatter(
                x=_hop_x(focus, one, by_side), y=[r["focus"] for r in focus], mode="lines",
                line={"color": one.colour, "width": 1.5, "dash": "dot"}, showlegend=False,
                name=f"{one.name}, focused image", hovertemplate="%{y:.4g}", meta={}))
    figure.update_layout(
        showlegend=per_head, hovermode="closest", dragmode="zoom",
        margin={"t": 34 if per_head else 10},
        xaxis={"title": {"text": "hop / grid side (share of side)" if by_side else
                         "hop (patches, Chebyshev distance)"}, "rangemode": "tozero"},
        yaxis={"title": {"text": HOP_STRENGTH.title}, "rangemode": "tozero",
               "exponentformat": "power"})
    return figure


def _hop_x(points: list[dict], one: Series, by_side: bool) -> list[float]:
    return [r["hop"] / (one.model.hops if by_side else 1) for r in points]


def _band(points: list[dict], one: Series, by_side: bool) -> list[go.Scatter]:
    x = _hop_x(points, one, by_side)
    outline = x + x[::-1]
    edge = [r["high"] for r in points] + [r["low"] for r in points[::-1]]
    text = [f"<b>{one.name}</b>, hop {r['hop']}<br>mean {r['mean']:.4g}, quartiles "
            f"{r['low']:.4g} to {r['high']:.4g}<br>over {r['n']:,} "
            f"{'images' if one.layer is not None else 'heads'}" for r in points]
    return [
        go.Scatter(x=outline, y=edge, mode="lines", fill="toself", line={"width": 0},
                   fillcolor=theme.tint(one.colour, 0.13), hoverinfo="skip", showlegend=False,
                   meta={}),
        go.Scatter(x=x, y=[r["mean"] for r in points], mode="lines+markers", name=one.name,
                   line={"color": one.colour, "width": 1.8, "dash": one.dash},
                   marker={"size": 5, "symbol": theme.model_symbol(one.model.index)},
                   text=text, hovertemplate="%{text}<extra></extra>", meta={})]


def distribution(rows: pa.Table, series: list[Series], column: Column, bins: int,
                 focus: dict[tuple, float], filtered: bool, per_head: bool) -> go.Figure:
    """Histograms as steps, each of area 1 over its bins; grey outlines are without the filter."""
    figure = theme.bare(HEIGHT)
    lo, hi = (rows["lo"][0].as_py(), rows["hi"][0].as_py()) if rows.num_rows else (0.0, 1.0)
    edges = np.linspace(lo, hi, bins + 1) if hi > lo else np.linspace(lo - 0.5, lo + 0.5, bins + 1)
    for one in series:
        every, kept = _counts(rows, one, bins)
        if filtered and every.sum():
            figure.add_trace(_steps(edges, every, one, theme.FAINT, ghost=True))
        if kept.sum():
            figure.add_trace(_steps(edges, kept, one, one.colour, ghost=False))
    for one in series:
        value = focus.get(one.key)
        if value is not None and not math.isnan(value):
            figure.add_vline(x=value, line={"color": one.colour, "width": 2, "dash": "dot"})
    what = "images" if per_head else "heads × images"
    figure.update_layout(
        showlegend=per_head, dragmode="zoom", margin={"t": 34 if per_head else 10},
        xaxis={"title": {"text": column.title}, "range": [edges[0], edges[-1]]},
        yaxis={"title": {"text": f"share of {what}"}, "rangemode": "tozero", "tickformat": ".0%"})
    return figure


def _counts(rows: pa.Table, one: Series, bins: int) -> tuple[np.ndarray, np.ndarray]:
    every, kept = np.zeros(bins), np.zeros(bins)
    for r in rows.to_pylist():
        if (r["model"], r["layer"], r["head"]) == one.key:
            every[r["bin"]], kept[r["bin"]] = r["everything"], r["kept"]
    return every, kept


def _steps(edges: np.ndarray, counts: np.ndarray, one: Series, colour: str, ghost: bool
           ) -> go.Scatter:
    share = counts / counts.sum()
    text = [f"<b>{one.name}</b><br>{a:.4g} to {b:.4g}<br>{s:.1%} ({n:,.0f} of {counts.sum():,.0f})"
            for a, b, s, n in zip(edges, edges[1:], share, counts, strict=False)]
    return go.Scatter(
        x=edges, y=np.append(share, share[-1]), mode="lines",
        line={"shape": "hv", "color": colour, "width": 1 if ghost else 1.6,
              "dash": "solid" if ghost else one.dash},
        fill=None if ghost else "tozeroy", fillcolor=theme.tint(one.colour, 0.12), name=one.name,
        text=[*text, text[-1]], hovertemplate="%{text}<extra></extra>", meta={},
        showlegend=not ghost, hoverinfo="skip" if ghost else None)
