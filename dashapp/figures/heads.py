"""Head Importance: the matrix of layers x heads, and the line over all heads with its baseline."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pyarrow as pa

from dashapp import theme
from dashapp.chart import Figure, HeldList, numbers, say
from dashapp.facts import Model
from dashapp.figures.columns import floats, spans
from dashapp.figures.panes import Pane, columns_for, height_of, name_above, panes
from dashapp.theme import plain
from store.schema import Column
from store.selection import HeadKey

SIGNED = {"-1..1", "unbounded"}
INTERVAL = "<br>95 % interval %{customdata[2]:.4~g} to %{customdata[3]:.4~g}"
_PLACE = ("layer", "head")
OVER = "<br>mean over %{customdata[4]:,.0f} images"


class Values:
    """The rows of `queries.head_values` by head: value, interval, number of images."""

    def __init__(self, rows: pa.Table) -> None:
        self._spans = spans(rows["model"])
        self._place = [rows[c].to_numpy() for c in _PLACE]
        self._numbers = np.stack([floats(rows[c]) for c in ("value", "low", "high", "images")])
        self._grids: dict[str, np.ndarray] = {}

    def all(self, model: Model) -> np.ndarray:
        """float64[4, layers, heads], not to be changed: value, ends of its interval, images; NaN
        where undefined."""
        if model.name not in self._grids:
            grid = np.full((4, model.layers, model.heads), math.nan)
            if own := self._spans.get(model.name):
                layer, head = self._place
                grid[:, layer[own], head[own]] = self._numbers[:, own]
            self._grids[model.name] = grid
        return self._grids[model.name]

    def model(self, model: Model) -> np.ndarray:
        """float64[layers, heads], not to be changed; NaN where undefined."""
        return self.all(model)[0]

    def undefined(self, models: list[Model]) -> list[Model]:
        """Those of the models that were asked about and have no value at all."""
        return [m for m in models if (m.name in self._spans or not self._spans)
                and not np.isfinite(self.model(m)).any()]

    def at(self, rows: pa.Table, models: list[Model]) -> np.ndarray:
        """float64[row]: the values of the heads that other rows are about; NaN where undefined."""
        found, own = np.full(rows.num_rows, math.nan), spans(rows["model"])
        layer, head = (rows[c].to_numpy() for c in _PLACE)
        for model in models:
            if (span := own.get(model.name)) is not None:
                found[span] = self.model(model)[layer[span], head[span]]
        return found

    def hover(self, model: Model, measure: Column, mark: str
              ) -> tuple[np.ndarray, list[str], np.ndarray]:
        """What the mouse is told at each head: numbers, the templates that read them, and which
        one reads those of a head.

        float32[layers, heads, 5]: layer, head, ends of the interval, images; and uint8[layers,
        heads]. `mark`: where the template finds the value, y or z.
        """
        found = self.all(model)
        said = np.empty((model.layers, model.heads, 5), np.float32)
        said[..., :2] = _places(model.layers, model.heads)
        said[..., 2:] = found[1:].transpose(1, 2, 0)
        name = f"<b>{plain(model.name)}</b> layer %{{customdata[0]}}, head %{{customdata[1]}}<br>"
        value = f"{name}{measure.label} %{{{mark}:.4~g}} {measure.unit}"
        texts = [*(f"{value}{interval}{over}<extra></extra>"
                   for interval in ("", INTERVAL) for over in ("", OVER)),
                 f"{name}{measure.label}: not defined<extra></extra>"]
        value_known, low_known, _, images_known = np.isfinite(found).view(np.uint8)
        case = np.where(value_known, 2 * low_known + images_known, np.uint8(4))
        return said, texts, case


@lru_cache(64)
def _places(layers: int, heads: int) -> np.ndarray:
    """float32[layers, heads, 2]: the layer and the number of each head."""
    return np.moveaxis(np.indices((layers, heads), np.float32), 0, -1)


def places(chosen: tuple[HeadKey, ...], model: Model) -> list[int]:
    """Where the chosen heads of a model lie among all its heads, layer by layer."""
    return sorted(layer * model.heads + head for name, layer, head in chosen if name == model.name)


def matrix(values: Values, models: list[Model], measure: Column, chosen: tuple[HeadKey, ...],
           why_undefined: dict[str, str]) -> Figure:
    """A heatmap per model on one scale; `why_undefined` says what to do where all is NULL."""
    spots = panes(len(models), columns_for(len(models), 4), 0.06, 0.22)
    figure = theme.bare(height_of(len(models)))
    layout = figure["layout"]
    layout |= {"margin": {"l": 38, "r": 8, "t": 24, "b": 38}, "dragmode": False,
               "coloraxis": _coloraxis(values, models, measure)}
    for model, pane in zip(models, spots, strict=True):
        n = pane.axis
        layout |= _matrix_axes(pane, model)
        figure["data"] += [_cells(values, model, measure, n), _crosses(values.model(model), n)]
        name_above(figure, model, pane)
        if chosen:
            mine = places(chosen, model)
            figure["data"].append(_veil(model, mine, n))
            layout["shapes"] += _frames(model, mine, n)
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


def _cells(values: Values, model: Model, measure: Column, n: str) -> dict:
    said, texts, which = values.hover(model, measure, "z")
    trace = {"type": "heatmap", "z": numbers(values.model(model)), "customdata": numbers(said),
             "coloraxis": "coloraxis", "xaxis": f"x{n}", "yaxis": f"y{n}", "xgap": 1, "ygap": 1,
             "hoverongaps": True, "name": plain(model.name),
             "meta": {"model": model.name, "grid": True}}
    say(trace, texts, which)
    return trace


def _crosses(z: np.ndarray, n: str) -> dict:
    """A cross in each cell that has no value."""
    layer, head = np.nonzero(~np.isfinite(z))
    return {"type": "scatter", "x": numbers(head, np.uint16), "y": numbers(layer, np.uint16),
            "mode": "markers", "xaxis": f"x{n}", "yaxis": f"y{n}", "hoverinfo": "skip",
            "marker": {"symbol": "x-thin", "size": 7, "line": {"width": 1, "color": theme.FAINT}}}


def _veil(model: Model, mine: list[int], n: str) -> dict:
    """White over the heads that are not chosen."""
    z = np.ones(model.layers * model.heads)
    z[mine] = math.nan
    return {"type": "heatmap", "z": numbers(z.reshape(model.layers, model.heads)),
            "xaxis": f"x{n}", "yaxis": f"y{n}", "hoverinfo": "skip", "showscale": False,
            "colorscale": [[0, "#ffffff"], [1, "#ffffff"]], "opacity": 0.45}


def _frames(model: Model, mine: list[int], n: str) -> list[dict]:
    """An outline around each chosen head, all in one shape."""
    if not mine:
        return []
    corners = ((head - 0.5, layer - 0.5) for layer, head in (divmod(i, model.heads) for i in mine))
    return [{"type": "path", "xref": f"x{n}", "yref": f"y{n}", "name": "chosen",
             "path": "".join(f"M{x},{y}H{x + 1}V{y + 1}H{x}Z" for x, y in corners),
             "line": {"color": theme.ACCENT, "width": 2}}]


def line(values: Values, models: list[Model], measure: Column, chosen: tuple[HeadKey, ...],
         baseline: dict[str, float], depth: bool, before: Values | None = None) -> Figure:
    """A line per model over its heads, layer by layer; x = 0 is the unpruned model.

    `baseline` is the unpruned value per model (missing where there is none); `before` are the
    values without the image filter, drawn in grey.
    """
    strip_pixels, line_pixels = 12 * len(models), 130
    figure = theme.bare(line_pixels + strip_pixels + 54)
    strip = strip_pixels / (strip_pixels + line_pixels)
    for model in models:
        if before is not None:
            figure["data"].append(_ghost(before, model, depth))
        figure["data"].append(_curve(values, model, measure, chosen, baseline, depth))
    rows = tuple((m.layers, m.heads, m.index) for m in models)
    figure["layout"] |= {
        "shapes": _shapes(rows, depth, tuple(baseline.get(m.name) for m in models)),
        "annotations": _layer_strip(rows, depth)[1],
        "margin": {"l": 64, "r": 14, "t": 8, "b": 42}, "dragmode": "select",
        "xaxis": {"title": {"text": "relative depth: running head / number of heads (0 = unpruned)"
                            if depth else "running head, layer by layer" +
                            " (0 = unpruned)" * bool(baseline)},
                  "range": _line_range(models, depth), "anchor": "y2"},
        "yaxis": {"domain": [strip + 0.02, 1], "title": {"text": theme.wrapped(measure.title, 20)},
                  "zeroline": True, "zerolinecolor": theme.FAINT},
        "yaxis2": {"domain": [0, strip], "range": [len(models), 0], "showticklabels": False,
                   "ticks": "", "showgrid": False, "fixedrange": True}}
    return figure


def _line_range(models: list[Model], depth: bool) -> list[float]:
    last = max(m.layers * m.heads for m in models)
    return [-0.02, 1.02] if depth else [-0.02 * last, last * 1.01 + 0.5]


@lru_cache(64)
def _x(count: int, depth: bool, first: int = 0) -> dict:
    """float[1 + heads]: 0 for the unpruned model, then a place per head; packed, from `first`."""
    return numbers(np.arange(first, count + 1) / (count if depth else 1))


@lru_cache(64)
def _sizes(count: int) -> dict:
    """uint8[1 + heads]: the unpruned model is drawn larger; packed."""
    return numbers(np.array([9] + [5] * count), np.uint8)


def _curve(values: Values, model: Model, measure: Column, chosen: tuple[HeadKey, ...],
           baseline: dict[str, float], depth: bool) -> dict:
    start, count = baseline.get(model.name, math.nan), model.layers * model.heads
    y, low, high = np.full((3, 1 + count), start)
    y[1:], low[1:], high[1:] = values.all(model)[:3].reshape(3, count)
    said, texts, which = values.hover(model, measure, "y")
    unpruned = (f"<b>{plain(model.name)}</b> unpruned<br>{measure.label} %{{y:.4~g}} "
                f"{measure.unit}<extra></extra>")
    colour = theme.model_colour(model.index)
    trace: dict = {
        "type": "scatter", "x": _x(count, depth), "y": numbers(y),
        "mode": "lines+markers", "name": plain(model.name),
        "line": {"color": theme.tint(colour, 0.75), "width": 1.1},
        "marker": {"size": _sizes(count), "color": colour,
                   "symbol": theme.model_symbol(model.index)},
        "error_y": {"type": "data", "array": numbers(high - y), "arrayminus": numbers(y - low),
                    "symmetric": False, "thickness": 1, "width": 0,
                    "color": theme.tint(colour, 0.4)},
        "customdata": numbers(np.vstack([np.full(said.shape[-1], math.nan, np.float32),
                                         said.reshape(count, -1)])),
        "meta": {"model": model.name},
        "selected": {"marker": {"opacity": 1, "size": 9}},
        "unselected": {"marker": {"opacity": 0.25, "color": theme.tint(colour, 1)}}}
    say(trace, [unpruned, *texts], np.append(np.uint8(0), which + np.uint8(1)))
    if chosen:
        trace["selectedpoints"] = [0] + [i + 1 for i in places(chosen, model)]
    return trace


def _ghost(before: Values, model: Model, depth: bool) -> dict:
    """The line over all images, in grey."""
    return {"type": "scatter", "x": _x(model.layers * model.heads, depth, 1),
            "y": numbers(before.model(model).ravel()), "mode": "lines",
            "line": {"color": theme.FAINT, "width": 1.5}, "hoverinfo": "skip"}


Row = tuple[int, int, int]
"""Of a model: layers, heads, index."""


@lru_cache(16)
def _shapes(models: tuple[Row, ...], depth: bool, baseline: tuple[float | None, ...]) -> HeldList:
    """The blocks under the line, and a dashed line per model at its unpruned value."""
    return HeldList(_layer_strip(models, depth)[0] + [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "opacity": 0.6,
         "y0": value, "y1": value,
         "line": {"color": theme.model_colour(index), "width": 1, "dash": "dash"}}
        for (_, _, index), value in zip(models, baseline, strict=True)
        if value is not None and math.isfinite(value)])


@lru_cache(16)
def _layer_strip(models: tuple[Row, ...], depth: bool) -> tuple[HeldList, HeldList]:
    """Under the line, a row of blocks per model: which x belongs to which layer. Shapes and
    annotations."""
    blocks: list[dict] = []
    names: list[dict] = [{"text": "layer", "x": -0.004, "xref": "paper", "y": len(models) / 2,
                          "yref": "y2", "xanchor": "right", "showarrow": False}]
    for row, (layers, heads, index) in enumerate(models):
        scale = layers * heads if depth else 1
        step = _step(layers, 26)
        for layer in range(layers):
            x0, x1 = ((layer + side) * heads + 0.5 for side in (0, 1))
            colour = theme.tint(theme.model_colour(index), 0.28 if layer % 2 else 0.12)
            blocks.append({"type": "rect", "xref": "x", "yref": "y2", "x0": x0 / scale,
                           "x1": x1 / scale, "y0": row + 0.08, "y1": row + 0.92,
                           "fillcolor": colour, "line": {"width": 0}})
            if layer % step == 0:
                names.append({"x": (x0 + x1) / 2 / scale, "y": row + 0.5, "xref": "x",
                              "yref": "y2", "text": str(layer), "showarrow": False,
                              "font": {"size": 10, "color": theme.MUTED}})
    return HeldList(blocks), HeldList(names)
