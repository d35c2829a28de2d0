"""The map of patterns: a dot per head of every model, on the density of all heads and images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from dashapp import pictures, theme
from dashapp.chart import Figure, HeldList, numbers
from dashapp.facts import Model
from dashapp.figures.columns import Same, flags, floats, spans
from dashapp.figures.heads import Values, places
from dashapp.theme import plain
from store.schema import Column
from store.selection import HeadKey
from store.series_tables import CELLS as BINS

HEIGHT = 430
SVG_POINTS = 2000
GREYS = ("#ffffff", "#f3f5f6", "#e9ecef", "#dee2e6", "#d2d8dd")
GREYED = "#a9b2ba"
MIXED = "#8d8d8d"
LABEL_WIDTH, LABEL_HEIGHT = 0.0125, 0.055
"""What a letter and a line of a cluster's name take up, in shares of the map's sides."""


@dataclass(frozen=True)
class Paint:
    """The colours of the heads: a number each on one colour axis, or a colour for each model."""

    axis: dict | None
    numbers: np.ndarray

    @staticmethod
    def models(rows: pa.Table) -> Paint:
        return Paint(None, np.full(rows.num_rows, np.nan))

    @staticmethod
    def numbered(values: np.ndarray, title: str, signed: bool = False) -> Paint:
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        colours = theme.diverging(low, high) if signed and low < 0 else \
            theme.scale(theme.SEQUENTIAL[2:])
        return Paint({"cmin": low, "cmax": high, "colorscale": colours, "colorbar": {
            **theme.BAR, "title": theme.bar_title(title), "lenmode": "pixels", "len": 240}}, values)

    @staticmethod
    def named(values: list[str | None], title: str, names: list[str]) -> Paint:
        """`names` in the order of the legend; `mixed` is grey."""
        last = len(names) - 1
        place = {name: last - i for i, name in enumerate(names)}
        palette = tuple(MIXED if name == "mixed" else theme.CATEGORIES[i % len(theme.CATEGORIES)]
                        for i, name in enumerate(names))
        found = np.array([math.nan if v is None else place[v] for v in values], float)
        return Paint(theme.category_axis(title, names, palette) if names else None, found)


def paint(rows: pa.Table, name: str, models: list[Model], depth: bool, measure: Column,
          values: Values | None, clusters: dict[int, str]) -> Paint:
    """How the rows of `pattern_queries.places` are coloured."""
    if name == "layer":
        layer = floats(rows["layer"])
        last = {m.name: max(1, m.layers - 1) for m in models}
        scale = np.array([last[m] for m in rows["model"].to_pylist()], float) if depth else 1.0
        return Paint.numbered(layer / scale, "layer / last layer" if depth else "layer")
    if name == "importance" and values is not None:
        return Paint.numbered(values.at(rows, models), measure.title, signed=True)
    if name == "pattern":
        found = rows["pattern"].to_pylist()
        counted = sorted({v for v in found if v is not None},
                         key=lambda v: (v == "mixed", -found.count(v), v))
        return Paint.named(found, "pattern", counted)
    if name == "cluster":
        labels = {c: f"{c} {text}" for c, text in clusters.items()}
        return Paint.named([labels.get(c) for c in rows["cluster"].to_pylist()], "cluster",
                           [labels[c] for c in sorted(labels)])
    return Paint.models(rows)


def draw(rows: pa.Table, models: list[Model], colours: Paint, chosen: tuple[HeadKey, ...],
         opened: HeadKey | None, kind: str, focus: int | None) -> Figure:
    """The heads, one trace a model; density and names come behind and above them."""
    figure = theme.bare(HEIGHT)
    layout = figure["layout"]
    look = {"showticklabels": False, "ticks": "", "showgrid": False, "mirror": True,
            "showline": True, "linecolor": theme.LINE}
    layout |= {"dragmode": "lasso", "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
               "xaxis": {**look, "range": _range(rows["x"])},
               "yaxis": {**look, "range": _range(rows["y"])},
               "modebar": {**layout["modebar"], "orientation": "h"}}
    if colours.axis:
        layout["coloraxis"] = colours.axis
    gl = rows.num_rows > SVG_POINTS
    found = _heads(Same(rows))
    shown = [(model, found[model.name]) for model in models if model.name in found]
    figure["data"] = [_scatter(heads, model, colours, chosen, kind, focus, gl)
                      for model, heads in shown]
    if chosen:
        figure["data"] += _on_top([(model, heads, heads.at(chosen, model))
                                   for model, heads in shown])
    layout["shapes"] = [_ring(heads, place) for model, heads in shown
                        for place in (heads.at((opened,), model) if opened else ())]
    return figure


@dataclass(frozen=True)
class Heads:
    """The heads of one model that have a place: as arrays, and what a trace says of them. `rows`:
    theirs in the table."""

    rows: slice
    layer: np.ndarray
    head: np.ndarray
    x: np.ndarray
    y: np.ndarray
    trace: dict

    def at(self, keys: tuple[HeadKey, ...], model: Model) -> np.ndarray:
        """Which of them these are: int[m], ascending."""
        mine = places(keys, model)
        return np.flatnonzero(np.isin(self.layer * model.heads + self.head, mine)) if mine else \
            np.empty(0, int)


@lru_cache(8)
def _heads(still: Same) -> dict[str, Heads]:
    """The heads of each model."""
    rows = still.rows
    layer, head = (rows[c].to_numpy().astype(int) for c in ("layer", "head"))
    x, y, texts = floats(rows["x"]), floats(rows["y"]), _texts(rows)
    return {model: Heads(own, layer[own], head[own], x[own], y[own], {
        "x": numbers(x[own]), "y": numbers(y[own]), "text": HeldList(texts[own]),
        "customdata": numbers(np.stack([layer[own], head[own]], -1), np.uint16)})
            for model, own in spans(rows["model"]).items()}


def _on_top(chosen: list[tuple[Model, Heads, np.ndarray]]) -> list[dict]:
    """Outlines of the chosen heads, over what is greyed; the mouse does not see them."""
    return [{"type": "scatter", "x": numbers(heads.x[own]), "y": numbers(heads.y[own]),
             "mode": "markers", "hoverinfo": "skip",
             "marker": {"symbol": f"{theme.model_symbol(model.index)}-open", "size": 10,
                        "color": theme.ACCENT, "line": {"width": 1.5}}}
            for model, heads, own in chosen if len(own)]


def _scatter(heads: Heads, model: Model, colours: Paint, chosen: tuple[HeadKey, ...], kind: str,
             focus: int | None, gl: bool) -> dict:
    number = colours.numbers[heads.rows]
    painted = colours.axis is not None and np.isfinite(number).any()
    marker = {"color": numbers(number), "coloraxis": "coloraxis"} if painted else \
        {"color": theme.MUTED if colours.axis else theme.model_colour(model.index)}
    trace = {
        **heads.trace, "type": "scattergl" if gl else "scatter",
        "mode": "markers", "name": plain(model.name),
        "marker": {**marker, "symbol": theme.model_symbol(model.index), "size": 5 if gl else 8,
                   "opacity": 0.9, "line": {"width": 0 if gl else 0.7, "color": "#ffffff"}},
        "hoverinfo": "none",
        "meta": {"model": model.name, "picture": {
            "url": pictures.head_url(model.name, kind, focus), "rows": model.layers,
            "columns": model.heads, "kind": kind}},
        "selected": {"marker": {"opacity": 1, "size": 10}},
        "unselected": {"marker": {"color": GREYED, "opacity": 0.5}}}
    if chosen:
        trace["selectedpoints"] = heads.at(chosen, model).tolist()
    return trace


def _texts(rows: pa.Table) -> list[str]:
    """What the hover panel says under a head's name, in lines; it is shown as text, never as
    markup."""
    columns = (rows[c].to_pylist() for c in ("pattern", "pattern_score", "error"))
    return [f"{named(pattern, score)}reconstruction error {_number(error)} nats"
            for pattern, score, error in zip(*columns, strict=True)]


def named(pattern: str | None, score: float | None) -> str:
    """A head's pattern and its score, with an end of line; nothing where it has no name."""
    if pattern is None:
        return ""
    return f"{pattern}\n" if score is None else f"{pattern}, score {score:.2f}\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _range(values: pa.ChunkedArray) -> list[float]:
    known = floats(values)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.1 * (high - low) or 1.0
    return [low - room, high + room]


def _ring(heads: Heads, place: int) -> dict:
    """Around the head that the head page is about."""
    return {"type": "circle", "xsizemode": "pixel", "ysizemode": "pixel", "name": "opened",
            "xanchor": float(heads.x[place]), "yanchor": float(heads.y[place]),
            "x0": -9, "x1": 9, "y0": -9, "y1": 9, "line": {"color": theme.ACCENT, "width": 2}}


def add_density(figure: Figure, rows: pa.Table, filtered: bool) -> None:
    """Grey contours of all heads x images behind the dots; a line around what passes the filters.

    Counts are smoothed over neighbouring cells, and drawn by their square roots.
    """
    if not rows.num_rows:
        return
    (x0, x1), (y0, y1) = ((rows[f"{a}0"][0].as_py(), rows[f"{a}1"][0].as_py()) for a in "xy")
    grids = [_smoothed(rows, "everything")] + [_smoothed(rows, "kept")] * filtered
    where = {"type": "contour", "x": numbers(_centres(x0, x1)), "y": numbers(_centres(y0, y1)),
             "hoverinfo": "skip", "showscale": False}
    top = max(float(grids[0].max()), 1e-9)
    traces = [{**where, "z": numbers(grids[0]), "colorscale": theme.scale(GREYS),
               "line": {"width": 0}, "zmin": 0, "zmax": top,
               "contours": {"start": top / 12, "end": top, "size": top / 6}}]
    if filtered and grids[1].max() > 0:
        most = float(grids[1].max())
        traces.append({**where, "z": numbers(grids[1]), "contours": {
            "coloring": "none", "start": most / 4, "end": most, "size": most / 3},
            "line": {"width": 1, "color": theme.MUTED, "dash": "dot"}})
    figure["data"] = traces + figure["data"]
    for axis, low, high in (("xaxis", x0, x1), ("yaxis", y0, y1)):
        _widen(figure["layout"][axis], low, high)


def add_points(figure: Figure, rows: pa.Table, filtered: bool) -> None:
    """Single heads on single images as grey dots; darker what passes the filters."""
    passes = flags(rows["kept"])
    x, y = floats(rows["x"]), floats(rows["y"])
    looks = [(~passes, "#d9dee2"), (passes, "#8f9aa4")] if filtered else [(passes, "#b4bec6")]
    figure["data"] = [{"type": "scattergl", "x": numbers(x[own]), "y": numbers(y[own]),
                       "mode": "markers", "hoverinfo": "skip",
                       "marker": {"size": 3, "color": colour, "opacity": 0.7}}
                      for own, colour in looks] + figure["data"]
    for axis, values in (("xaxis", x), ("yaxis", y)):
        if len(values):
            _widen(figure["layout"][axis], float(values.min()), float(values.max()))


def _widen(axis: dict, low: float, high: float) -> None:
    room = 0.03 * (high - low)
    axis["range"] = [min(axis["range"][0], low - room), max(axis["range"][1], high + room)]


def _centres(low: float, high: float) -> np.ndarray:
    return low + (np.arange(BINS) + 0.5) * (high - low) / BINS


def _smoothed(rows: pa.Table, column: str) -> np.ndarray:
    """float32[BINS, BINS]: square roots of the counts, each spread over its neighbours."""
    counts = np.zeros((BINS, BINS))
    counts[rows["j"].to_numpy(), rows["i"].to_numpy()] = rows[column].to_numpy()
    return np.sqrt(_SPREAD @ counts @ _SPREAD).astype(np.float32)


_SPREAD = sum(share * np.eye(BINS, k=k)
              for k, share in ((-2, 0.06), (-1, 0.24), (0, 0.4), (1, 0.24), (2, 0.06)))


def add_names(figure: Figure, centres: list[tuple[str, float, float]]) -> None:
    """Names of clusters at their centres, the first ones first, as long as they have room."""
    taken: list[tuple[float, float, float]] = []
    layout = figure["layout"]
    for text, x, y in centres:
        across, down = (_share(layout[axis]["range"], v) for axis, v in
                        (("xaxis", x), ("yaxis", y)))
        width = LABEL_WIDTH * len(text)
        if all(abs(across - a) > (width + w) / 2 or abs(down - d) > LABEL_HEIGHT
               for a, d, w in taken):
            taken.append((across, down, width))
            layout["annotations"].append({
                "x": x, "y": y, "text": plain(text), "showarrow": False, "name": "cluster",
                "font": {"size": 12, "color": theme.INK}, "borderpad": 1,
                "bgcolor": "rgba(255,255,255,0.72)"})


def _share(ends: list[float], value: float) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])
