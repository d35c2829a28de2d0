"""How alike rankings put heads in order, as small matrices; and what pruning in an order leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from dashapp import theme
from dashapp.chart import Figure, numbers
from dashapp.facts import Model
from dashapp.figures.compare import bare
from dashapp.figures.panes import columns_for, name_above, panes
from dashapp.theme import plain
from store.compare_queries import RANDOM
from store.grids import coded
from store.schema import Column

CELL, LARGE_CELL, FEW = 23, 62, 6
"""Pixels of a cell of a matrix with labels; of a few labels it is large."""

Square = np.ndarray
"""float64[name, name]"""


def squares(rows: pa.Table, names: list[str], coefficient: str) -> dict[str, Square]:
    """model -> the coefficient of each pair of names, NaN where there is none. Rows hold each
    unordered pair once."""
    place = {name: i for i, name in enumerate(names)}
    models, code = coded(rows["model"])
    one, other = (np.array([place.get(name, -1) for name in rows[c].to_pylist()], int)
                  for c in ("one", "other"))
    value = rows[coefficient].to_numpy().astype(float)
    found = {}
    for i, model in enumerate(models):
        own = (code == i) & (one >= 0) & (other >= 0)
        square = np.full((len(names), len(names)), math.nan)
        square[one[own], other[own]] = square[other[own], one[own]] = value[own]
        found[model] = square
    return found


def mean(found: Mapping[str, Square]) -> tuple[Square, np.ndarray]:
    """The mean over models of each pair, and float64[name, name, (count, least, most)]."""
    stack = np.stack(list(found.values()))
    known = np.isfinite(stack)
    count = known.sum(0)
    total = np.where(known, stack, 0).sum(0)
    least, most = (np.where(known, stack, fill).min(0) if fill > 0 else
                   np.where(known, stack, fill).max(0) for fill in (math.inf, -math.inf))
    average = np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0)
    return average, np.stack([count, least, most], -1)


def matrix(square: Square, beside: np.ndarray, labels: list[str], title: str, coefficient: str
           ) -> Figure:
    """One matrix with its numbers; `beside` says for each cell over how many models it is."""
    count = len(labels)
    cell = LARGE_CELL if count <= FEW else CELL
    figure = bare(50 + _depth(labels) + cell * count, dragmode=False, margin={
        "l": 34 + _width(labels), "r": 64, "t": 8, "b": 34 + _depth(labels)},
        xaxis=_axis(labels, title, False), yaxis=_axis(labels, title, True),
        coloraxis=_colours(coefficient))
    figure["data"] = [{
        "type": "heatmap", "z": numbers(square), "coloraxis": "coloraxis", "hoverongaps": False,
        "xgap": 1, "ygap": 1, "meta": {}, "texttemplate": "%{z:.2f}",
        "textfont": {"size": 10 if cell == CELL else 12}, "customdata": beside.tolist(),
        "text": _pairs(labels),
        "hovertemplate": "%{text}<br>" + f"{coefficient} %{{z:.3f}}, mean of %{{customdata[0]}} "
                         "models<br>from %{customdata[1]:.3f} to %{customdata[2]:.3f}"
                         "<extra></extra>"}]
    return figure


def matrices(found: Mapping[str, Square], models: list[Model], labels: list[str],
             coefficient: str) -> Figure:
    """A matrix a model, side by side; labels stand at the left and at the foot."""
    columns = columns_for(len(models), 4)
    lines = math.ceil(len(models) / columns)
    side = max(130, 11 * len(labels))
    figure = bare(60 + _width(labels) + (side + 26) * lines, dragmode=False, margin={
        "l": 12 + _width(labels), "r": 64, "t": 24, "b": 30 + _width(labels)},
        coloraxis=_colours(coefficient))
    for model, pane in zip(models, panes(len(models), columns, 0.03, 0.16 if lines > 1 else 0),
                           strict=True):
        n = pane.axis
        figure["layout"] |= {
            f"xaxis{n}": {**_axis(labels if pane.last_in_column else [], "", False, 90),
                          "range": [-0.5, len(labels) - 0.5], "domain": pane.x,
                          "anchor": f"y{n}"},
            f"yaxis{n}": {**_axis(labels if pane.first_in_row else [], "", True),
                          "range": [len(labels) - 0.5, -0.5], "domain": pane.y,
                          "anchor": f"x{n}"}}
        name_above(figure, model, pane)
        figure["data"].append({
            "type": "heatmap", "z": numbers(found[model.name]), "coloraxis": "coloraxis",
            "hoverongaps": False, "xgap": 1, "ygap": 1, "xaxis": f"x{n}", "yaxis": f"y{n}",
            "meta": {"model": model.name}, "text": _pairs(labels),
            "hovertemplate": f"<b>{plain(model.name)}</b><br>%{{text}}<br>{coefficient} "
                             "%{z:.3f}<extra></extra>"})
    return figure


def _axis(labels: list[str], title: str, down: bool, angle: int = -40) -> dict:
    """Names at the cells' middles; without labels, an axis with no mark on it."""
    count = len(labels)
    ends = [count - 0.5, -0.5] if down else [-0.5, count - 0.5]
    marks = {"tickvals": list(range(count)), "ticktext": labels} if labels else \
        {"showticklabels": False}
    return {"range": ends, **marks, "ticks": "", "ticklabelstandoff": 4, "showgrid": False,
            "fixedrange": True, "tickangle": 0 if down else angle, "title": {"text": title}}


def _width(labels: list[str]) -> int:
    """Pixels of the longest label."""
    return round(6.2 * max(map(len, labels)))


def _depth(labels: list[str]) -> int:
    """Pixels below an axis with slanted labels."""
    return round(0.68 * _width(labels))


def _pairs(labels: list[str]) -> list[list[str]]:
    return [[f"{one} and {other}" if one != other else f"{one}, resampled" for other in labels]
            for one in labels]


def _colours(coefficient: str) -> dict:
    return {"cmin": -1, "cmax": 1, "colorscale": theme.diverging(-1, 1), "colorbar": {
        **theme.BAR, "title": theme.bar_title(coefficient), "tickvals": [-1, -0.5, 0, 0.5, 1],
        "lenmode": "pixels", "len": 150}}


def curves(rows: pa.Table, models: list[Model], column: Column, beats: Mapping[str, str]) -> Figure:
    """A pane per model: the quantity over the share of heads pruned, least important first (solid),
    most important first (dashed), and in random orders (grey: range and mean)."""
    columns = columns_for(len(models), 4)
    lines = math.ceil(len(models) / columns)
    figure = bare(34 + 256 * lines, dragmode="zoom",
                  margin=theme.margins(l=60, t=40))
    names, code = coded(rows["model"])
    columns_of = {name: rows[name].to_numpy() for name in rows.column_names if name != "model"}
    for model, pane in zip(models, panes(len(models), columns, 0.05, 0.3 if lines > 1 else 0),
                           strict=True):
        n = pane.axis
        figure["layout"] |= {
            f"xaxis{n}": {"domain": pane.x, "anchor": f"y{n}", "range": [-0.02, 1.02],
                          "tickformat": ".0%", "title": {
                              "text": "heads pruned" if pane.last_in_column else ""}},
            f"yaxis{n}": {"domain": pane.y, "anchor": f"x{n}", "rangemode": "tozero",
                          **({} if n == "" else {"matches": "y"}),
                          "title": {"text": column.title if pane.first_in_row else ""}}}
        name_above(figure, model, pane, f"<br><span style='color:{theme.MUTED};font-size:11px'>"
                                        f"{beats.get(model.name, '')}</span>")
        figure["layout"]["annotations"][-1]["align"] = "left"
        own = code == names.index(model.name) if model.name in names else np.zeros(len(code), bool)
        for path in (RANDOM, "most_first", "least_first"):
            there = own & (columns_of["path"] == path)
            if there.any():
                figure["data"] += _PATHS[path](
                    {name: values[there] for name, values in columns_of.items()}, model, column, n)
    return figure


Columns = Mapping[str, np.ndarray]


def _random(rows: Columns, model: Model, column: Column, n: str) -> list[dict]:
    x, value, low, high = (rows[c] for c in ("fraction", "value", "low", "high"))
    orders = rows["orders"][-1]
    where = {"type": "scatter", "mode": "lines", "xaxis": f"x{n}", "yaxis": f"y{n}", "meta": {}}
    return [
        {**where, "x": numbers(np.concatenate([x, x[::-1]])), "hoverinfo": "skip",
         "y": numbers(np.concatenate([low, high[::-1]])), "fill": "toself", "line": {"width": 0},
         "fillcolor": theme.tint(theme.MUTED, 0.16)},
        {**where, "x": numbers(x), "y": numbers(value), "name": "random orders",
         "line": {"color": theme.MUTED, "width": 1, "dash": "dot"},
         "customdata": np.stack([low, high], -1).tolist(),
         "hovertemplate": f"<b>{plain(model.name)}</b> {orders} random orders<br>%{{x:.1%}} of "
                          f"heads pruned<br>{column.label} %{{y:.3f}}, from "
                          "%{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>"}]


def _ordered(rows: Columns, model: Model, column: Column, n: str) -> list[dict]:
    path = rows["path"][0]
    least = path == "least_first"
    colour = theme.model_colour(model.index)
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "lines+markers", "xaxis": f"x{n}", "yaxis": f"y{n}",
        "x": numbers(rows["fraction"]), "y": numbers(rows["value"]),
        "name": path.replace("_", " "), "meta": {"model": model.name, "path": path},
        "line": {"color": colour, "width": 1.8, "dash": "solid" if least else "dash"},
        "marker": {"size": 6, "color": colour,
                   "symbol": theme.model_symbol(model.index) + ("" if least else "-open")},
        "customdata": rows["pruned"].tolist(),
        "hovertemplate": f"<b>{plain(model.name)}</b> {path.replace('_', ' ')}<br>%{{customdata}} "
                         f"heads (%{{x:.1%}}) pruned<br>{column.label} %{{y:.3f}} {column.unit}"
                         "<extra></extra>"}
    return [trace]


_PATHS = {RANDOM: _random, "most_first": _ordered, "least_first": _ordered}
