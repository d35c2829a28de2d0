"""Head Importance: the matrix of layers x heads, and the line over all heads with its baseline."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from dashapp import theme
from dashapp.facts import Model
from dashapp.figures.panes import Pane, columns_for, height_of, name_above, panes
from dashapp.theme import plain
from store.schema import Column
from store.selection import HeadKey

SIGNED = {"-1..1", "unbounded"}


class Values:
    """The rows of `queries.head_values` by head: value, interval, number of images."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = {(r["model"], r["layer"], r["head"]): r for r in rows.to_pylist()}

    def get(self, key: HeadKey, column: str = "value") -> float:
        """NaN where undefined."""
        value = self._rows.get(key, {}).get(column)
        return math.nan if value is None else float(value)

    def model(self, model: Model, column: str = "value") -> np.ndarray:
        """float[layers, heads]"""
        return np.array([[self.get((model.name, layer, head), column)
                          for head in range(model.heads)] for layer in range(model.layers)])

    def exists(self, key: HeadKey) -> bool:
        return key in self._rows

    def hover(self, key: HeadKey, measure: Column) -> str:
        model, layer, head = key
        value = self.get(key)
        name = f"<b>{plain(model)}</b> layer {layer}, head {head}"
        if math.isnan(value):
            return f"{name}<br>{measure.label}: not defined"
        low, high = self.get(key, "low"), self.get(key, "high")
        interval = "" if math.isnan(low) else f"<br>95 % interval {low:.4g} to {high:.4g}"
        images = self.get(key, "images")
        over = "" if math.isnan(images) else f"<br>mean over {images:,.0f} images"
        return f"{name}<br>{measure.label} {value:.4g} {measure.unit}{interval}{over}"


def matrix(values: Values, models: list[Model], measure: Column, chosen: tuple[HeadKey, ...],
           why_undefined: dict[str, str]) -> go.Figure:
    """A heatmap per model on one scale; `why_undefined` says what to do where all is NULL."""
    spots = panes(len(models), columns_for(len(models), 4), 0.06, 0.22)
    figure = theme.bare(height_of(len(models)))
    figure.update_layout(margin={"l": 38, "r": 8, "t": 24, "b": 38}, dragmode=False,
                         coloraxis=_coloraxis(values, models, measure),
                         **{k: v for model, pane in zip(models, spots, strict=True)
                            for k, v in _matrix_axes(pane, model).items()})
    for model, pane in zip(models, spots, strict=True):
        n = pane.axis
        figure.add_trace(_cells(values, model, measure, n))
        name_above(figure, model, pane)
        _crosses(figure, values.model(model), n)
        mine = [(layer, head) for name, layer, head in chosen if name == model.name]
        if chosen:
            figure.add_trace(_veil(model, mine, n))
        for layer, head in mine:
            figure.add_shape(type="rect", x0=head - 0.5, x1=head + 0.5, y0=layer - 0.5,
                             y1=layer + 0.5, xref=f"x{n}", yref=f"y{n}",
                             line={"color": theme.ACCENT, "width": 2})
        if model.name in why_undefined:
            theme.says(figure, why_undefined[model.name], xref=f"x{n} domain",
                       yref=f"y{n} domain")
    return figure


def _coloraxis(values: Values, models: list[Model], measure: Column) -> dict:
    known = np.concatenate([values.model(m).ravel() for m in models])
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if measure.range in SIGNED:
        low, high = min(low, 0.0), max(high, 0.0)
        low, high = (low, high) if high > low else (0.0, 1.0)
        colours = theme.diverging(low, high)
    else:
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        colours = theme.scale(theme.SEQUENTIAL)
        if measure.important < 0:
            colours = theme.scale(theme.SEQUENTIAL[::-1])
    return {"cmin": low, "cmax": high, "colorscale": colours, "colorbar": {
        "thickness": 10, "outlinewidth": 0, "x": 1.0, "xanchor": "left", "xpad": 8,
        "tickfont": {"size": 11, "color": theme.MUTED}, "nticks": 6,
        "title": theme.bar_title(measure.title)}}


def _matrix_axes(pane: Pane, model: Model) -> dict:
    look = {"showgrid": False, "ticks": "", "fixedrange": True, "tick0": 0}
    return {
        f"xaxis{pane.axis}": {
            **look, "domain": pane.x, "anchor": f"y{pane.axis}",
            "range": [-0.5, model.heads - 0.5], "dtick": _step(model.heads, 8),
            "title": {"text": "head" if pane.last_in_column else ""}},
        f"yaxis{pane.axis}": {
            **look, "domain": pane.y, "anchor": f"x{pane.axis}",
            "range": [model.layers - 0.5, -0.5], "dtick": _step(model.layers, 14),
            "title": {"text": "layer" if pane.first_in_row else ""}}}


def _step(count: int, ticks: int) -> int:
    return max(1, math.ceil(count / ticks))


def _cells(values: Values, model: Model, measure: Column, n: str) -> go.Heatmap:
    text = [[values.hover((model.name, layer, head), measure) for head in range(model.heads)]
            for layer in range(model.layers)]
    z = values.model(model)
    return go.Heatmap(z=[[None if math.isnan(v) else v for v in row] for row in z.tolist()],
                      x=list(range(model.heads)), y=list(range(model.layers)), text=text,
                      hovertemplate="%{text}<extra></extra>", coloraxis="coloraxis",
                      xaxis=f"x{n}", yaxis=f"y{n}", xgap=1, ygap=1, hoverongaps=True,
                      name=plain(model.name), meta={"model": model.name, "grid": True})


def _crosses(figure: go.Figure, z: np.ndarray, n: str) -> None:
    """A cross in each cell that has no value."""
    layer, head = np.nonzero(~np.isfinite(z))
    figure.add_trace(go.Scatter(
        x=head.tolist(), y=layer.tolist(), mode="markers", xaxis=f"x{n}", yaxis=f"y{n}",
        hoverinfo="skip", marker={"symbol": "x-thin", "size": 7, "line": {
            "width": 1, "color": theme.FAINT}}, meta={}))


def _veil(model: Model, mine: list[tuple[int, int]], n: str) -> go.Heatmap:
    """White over the heads that are not chosen."""
    z: list[list[float | None]] = [[1.0] * model.heads for _ in range(model.layers)]
    for layer, head in mine:
        z[layer][head] = None
    return go.Heatmap(z=z, x=list(range(model.heads)), y=list(range(model.layers)),
                      xaxis=f"x{n}", yaxis=f"y{n}", hoverinfo="skip", showscale=False,
                      colorscale=[[0, "#ffffff"], [1, "#ffffff"]], opacity=0.45, meta={})


def line(values: Values, models: list[Model], measure: Column, chosen: tuple[HeadKey, ...],
         baseline: dict[str, float], depth: bool, before: Values | None = None) -> go.Figure:
    """A line per model over its heads, layer by layer; x = 0 is the unpruned model.

    `baseline` is the unpruned value per model (missing where there is none); `before` are the
    values without the image filter, drawn in grey.
    """
    strip_pixels, line_pixels = 12 * len(models), 130
    figure = theme.bare(line_pixels + strip_pixels + 54)
    strip = strip_pixels / (strip_pixels + line_pixels)
    for model in models:
        if before is not None:
            figure.add_trace(_ghost(before, model, depth))
        figure.add_trace(_curve(values, model, measure, chosen, baseline, depth))
    blocks, numbers = _layer_strip(models, depth)
    figure.update_layout(
        shapes=blocks + _baselines(models, baseline), annotations=numbers,
        margin={"l": 64, "r": 14, "t": 8, "b": 42}, dragmode="select",
        xaxis={"title": {"text": "relative depth: running head / number of heads (0 = unpruned)"
                         if depth else "running head, layer by layer" +
                         " (0 = unpruned)" * bool(baseline)},
               "range": _line_range(models, depth), "anchor": "y2"},
        yaxis={"domain": [strip + 0.02, 1], "title": {"text": theme.wrapped(measure.title, 20)},
               "zeroline": True, "zerolinecolor": theme.FAINT},
        yaxis2={"domain": [0, strip], "range": [len(models), 0], "showticklabels": False,
                "ticks": "", "showgrid": False, "fixedrange": True})
    return figure


def _line_range(models: list[Model], depth: bool) -> list[float]:
    last = max(m.layers * m.heads for m in models)
    return [-0.02, 1.02] if depth else [-0.02 * last, last * 1.01 + 0.5]


def _x(model: Model, depth: bool) -> np.ndarray:
    """float[1 + layers * heads]: 0 for the unpruned model, then a place per head."""
    count = model.layers * model.heads
    return np.arange(count + 1) / (count if depth else 1)


def _keys(model: Model) -> list[HeadKey]:
    return [(model.name, layer, head) for layer in range(model.layers)
            for head in range(model.heads)]


def _curve(values: Values, model: Model, measure: Column, chosen: tuple[HeadKey, ...],
           baseline: dict[str, float], depth: bool) -> go.Scatter:
    keys, start = _keys(model), baseline.get(model.name, math.nan)
    y = np.concatenate([[start], values.model(model).ravel()])
    high = np.concatenate([[0.0], values.model(model, "high").ravel()]) - y
    low = y - np.concatenate([[0.0], values.model(model, "low").ravel()])
    high[0] = low[0] = 0.0
    colour = theme.model_colour(model.index)
    unpruned = f"<b>{plain(model.name)}</b> unpruned<br>{measure.label} {start:.4g} {measure.unit}"
    trace = go.Scatter(
        x=_x(model, depth), y=y, mode="lines+markers", name=plain(model.name),
        line={"color": theme.tint(colour, 0.75), "width": 1.1},
        marker={"size": [9, *[5] * len(keys)], "color": colour,
                "symbol": theme.model_symbol(model.index)},
        error_y={"type": "data", "array": high, "arrayminus": low, "symmetric": False,
                 "thickness": 1, "width": 0, "color": theme.tint(colour, 0.4)},
        customdata=[None, *[list(k) for k in keys]],
        text=[unpruned, *[values.hover(k, measure) for k in keys]],
        hovertemplate="%{text}<extra></extra>", meta={"model": model.name},
        selected={"marker": {"opacity": 1, "size": 9}},
        unselected={"marker": {"opacity": 0.25, "color": theme.tint(colour, 1)}})
    if chosen:
        trace.selectedpoints = [0] + [i + 1 for i, k in enumerate(keys) if k in set(chosen)]
    return trace


def _ghost(before: Values, model: Model, depth: bool) -> go.Scatter:
    """The line over all images, in grey."""
    return go.Scatter(x=_x(model, depth)[1:], y=before.model(model).ravel(), mode="lines",
                      line={"color": theme.FAINT, "width": 1.5}, hoverinfo="skip", meta={})


def _baselines(models: list[Model], baseline: dict[str, float]) -> list[dict]:
    """A dashed line per model at its unpruned value, as shapes."""
    return [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "opacity": 0.6,
             "y0": baseline[m.name], "y1": baseline[m.name],
             "line": {"color": theme.model_colour(m.index), "width": 1, "dash": "dash"}}
            for m in models if not math.isnan(baseline.get(m.name, math.nan))]


def _layer_strip(models: list[Model], depth: bool) -> tuple[list[dict], list[dict]]:
    """Under the line, a row of blocks per model: which x belongs to which layer.

    Shapes and annotations as plain dicts: adding them one by one takes most of a second.
    """
    blocks: list[dict] = []
    numbers: list[dict] = [{"text": "layer", "x": -0.004, "xref": "paper", "y": len(models) / 2,
                            "yref": "y2", "xanchor": "right", "showarrow": False}]
    for row, model in enumerate(models):
        scale = model.layers * model.heads if depth else 1
        step = _step(model.layers, 26)
        for layer in range(model.layers):
            x0, x1 = ((layer + side) * model.heads + 0.5 for side in (0, 1))
            colour = theme.tint(theme.model_colour(model.index), 0.28 if layer % 2 else 0.12)
            blocks.append({"type": "rect", "xref": "x", "yref": "y2", "x0": x0 / scale,
                           "x1": x1 / scale, "y0": row + 0.08, "y1": row + 0.92,
                           "fillcolor": colour, "line": {"width": 0}})
            if layer % step == 0:
                numbers.append({"x": (x0 + x1) / 2 / scale, "y": row + 0.5, "xref": "x",
                                "yref": "y2", "text": str(layer), "showarrow": False,
                                "font": {"size": 10, "color": theme.MUTED}})
    return blocks, numbers
