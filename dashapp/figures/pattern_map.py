"""The map of patterns: a dot per head of every model, on the density of all heads and images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from dashapp import pictures, theme
from dashapp.facts import Model
from dashapp.figures.heads import Values
from dashapp.theme import plain
from store.pattern_queries import BINS
from store.schema import Column
from store.selection import HeadKey

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
        numbers = np.array([math.nan if v is None else place[v] for v in values], float)
        return Paint(theme.category_axis(title, names, palette) if names else None, numbers)


def paint(rows: pa.Table, name: str, models: list[Model], depth: bool, measure: Column,
          values: Values | None, clusters: dict[int, str]) -> Paint:
    """How the rows of `pattern_queries.places` are coloured."""
    if name == "layer":
        layer = rows["layer"].to_numpy().astype(float)
        last = {m.name: max(1, m.layers - 1) for m in models}
        scale = np.array([last[m] for m in rows["model"].to_pylist()], float) if depth else 1.0
        return Paint.numbered(layer / scale, "layer / last layer" if depth else "layer")
    if name == "importance" and values is not None:
        numbers = np.array([values.get(key) for key in keys_of(rows)], float)
        return Paint.numbered(numbers, measure.title, signed=True)
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


def keys_of(rows: pa.Table) -> list[HeadKey]:
    return list(zip(*(rows[c].to_pylist() for c in ("model", "layer", "head")), strict=True))


def draw(rows: pa.Table, models: list[Model], colours: Paint, chosen: tuple[HeadKey, ...],
         opened: HeadKey | None, kind: str, focus: int | None) -> go.Figure:
    """The heads, one trace a model; density and names come behind and above them."""
    figure = theme.bare(HEIGHT)
    look = {"showticklabels": False, "ticks": "", "showgrid": False, "mirror": True,
            "showline": True, "linecolor": theme.LINE}
    figure.update_layout(dragmode="lasso", margin={"l": 8, "r": 8, "t": 8, "b": 8},
                         xaxis={**look, "range": _range(rows["x"])},
                         yaxis={**look, "range": _range(rows["y"])},
                         modebar={"orientation": "h"})
    if colours.axis:
        figure.update_layout(coloraxis=colours.axis)
    names, keys = np.array(rows["model"].to_pylist(), object), keys_of(rows)
    gl = rows.num_rows > SVG_POINTS
    for model in models:
        own = np.flatnonzero(names == model.name)
        if len(own):
            figure.add_trace(_heads(rows.take(own), model, colours, colours.numbers[own],
                                    [keys[i] for i in own], chosen, kind, focus, gl))
    wanted = set(chosen)
    outlined = [i for i, key in enumerate(keys) if key in wanted]
    if outlined:
        figure.add_trace(_on_top(rows.take(outlined), models))
    if opened in keys:
        _ring(figure, rows, keys.index(opened))
    return figure


def _on_top(rows: pa.Table, models: list[Model]) -> go.Scatter:
    """Outlines of the chosen heads, over what is greyed; the mouse does not see them."""
    index = {m.name: m.index for m in models}
    numbers = [index[name] for name in rows["model"].to_pylist()]
    return go.Scatter(
        x=rows["x"].to_numpy(), y=rows["y"].to_numpy(), mode="markers", hoverinfo="skip", meta={},
        marker={"symbol": [f"{theme.model_symbol(i)}-open" for i in numbers], "size": 10,
                "color": theme.ACCENT, "line": {"width": 1.5}})


def _heads(rows: pa.Table, model: Model, colours: Paint, numbers: np.ndarray,
           keys: list[HeadKey], chosen: tuple[HeadKey, ...], kind: str, focus: int | None,
           gl: bool) -> go.Scatter | go.Scattergl:
    painted = colours.axis is not None and np.isfinite(numbers).any()
    marker = {"color": numbers, "coloraxis": "coloraxis"} if painted else \
        {"color": theme.MUTED if colours.axis else theme.model_colour(model.index)}
    kind_of_trace = go.Scattergl if gl else go.Scatter
    trace = kind_of_trace(
        x=rows["x"].to_numpy(), y=rows["y"].to_numpy(), mode="markers", name=plain(model.name),
        marker={**marker, "symbol": theme.model_symbol(model.index), "size": 5 if gl else 8,
                "opacity": 0.9, "line": {"width": 0 if gl else 0.7, "color": "#ffffff"}},
        customdata=[list(k) for k in keys], text=_texts(rows), hoverinfo="none",
        meta={"model": model.name, "picture": {
            "url": pictures.head_url(model.name, kind, focus), "rows": model.layers,
            "columns": model.heads, "kind": kind}},
        selected={"marker": {"opacity": 1, "size": 10}},
        unselected={"marker": {"color": GREYED, "opacity": 0.5}})
    if chosen:
        trace.selectedpoints = [i for i, k in enumerate(keys) if k in set(chosen)]
    return trace


def _texts(rows: pa.Table) -> list[str]:
    """What the hover panel says, in lines; it is shown as text, never as markup."""
    return [f"{r['model']}\nlayer {r['layer']}, head {r['head']}\n{named(r)}"
            f"reconstruction error {_number(r['error'])} nats" for r in rows.to_pylist()]


def named(row: dict) -> str:
    """A head's pattern and its score, with an end of line; nothing where it has no name."""
    if row["pattern"] is None:
        return ""
    score = "" if row["pattern_score"] is None else f", score {row['pattern_score']:.2f}"
    return f"{row['pattern']}{score}\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _range(values: pa.ChunkedArray) -> list[float]:
    known = values.to_numpy().astype(float)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.1 * (high - low) or 1.0
    return [low - room, high + room]


def _ring(figure: go.Figure, rows: pa.Table, place: int) -> None:
    """Around the head that the head page is about."""
    figure.add_shape(type="circle", xsizemode="pixel", ysizemode="pixel", name="opened",
                     xanchor=rows["x"][place].as_py(), yanchor=rows["y"][place].as_py(),
                     x0=-9, x1=9, y0=-9, y1=9, line={"color": theme.ACCENT, "width": 2})


def add_density(figure: go.Figure, rows: pa.Table, filtered: bool) -> None:
    """Grey contours of all heads x images behind the dots; a line around what passes the filters.

    Counts are smoothed over neighbouring cells, and drawn by their square roots.
    """
    if not rows.num_rows:
        return
    (x0, x1), (y0, y1) = ((rows[f"{a}0"][0].as_py(), rows[f"{a}1"][0].as_py()) for a in "xy")
    grids = [_smoothed(rows, "everything")] + [_smoothed(rows, "kept")] * filtered
    where = {"x": _centres(x0, x1), "y": _centres(y0, y1), "hoverinfo": "skip",
             "showscale": False, "meta": {}}
    top = max(float(grids[0].max()), 1e-9)
    traces = [go.Contour(z=grids[0], colorscale=theme.scale(GREYS), line={"width": 0},
                         contours={"start": top / 12, "end": top, "size": top / 6},
                         zmin=0, zmax=top, **where)]
    if filtered and grids[1].max() > 0:
        most = float(grids[1].max())
        traces.append(go.Contour(z=grids[1], contours={
            "coloring": "none", "start": most / 4, "end": most, "size": most / 3},
            line={"width": 1, "color": theme.MUTED, "dash": "dot"}, **where))
    _behind(figure, traces)
    for axis, low, high in (("xaxis", x0, x1), ("yaxis", y0, y1)):
        _widen(figure.layout[axis], low, high)


def add_points(figure: go.Figure, rows: pa.Table, filtered: bool) -> None:
    """Single heads on single images as grey dots; darker what passes the filters."""
    passes = rows["kept"].to_numpy(zero_copy_only=False).astype(bool)
    x, y = (rows[c].to_numpy() for c in ("x", "y"))
    looks = [(~passes, "#d9dee2"), (passes, "#8f9aa4")] if filtered else [(passes, "#b4bec6")]
    _behind(figure, [go.Scattergl(x=x[own], y=y[own], mode="markers", hoverinfo="skip", meta={},
                                  marker={"size": 3, "color": colour, "opacity": 0.7})
                     for own, colour in looks])
    for axis, values in (("xaxis", x), ("yaxis", y)):
        if len(values):
            _widen(figure.layout[axis], float(values.min()), float(values.max()))


def _behind(figure: go.Figure, traces: list) -> None:
    figure.add_traces(traces)
    count = len(traces)
    figure.data = figure.data[-count:] + figure.data[:-count]


def _widen(axis: go.layout.XAxis, low: float, high: float) -> None:
    room = 0.03 * (high - low)
    axis.range = [min(axis.range[0], low - room), max(axis.range[1], high + room)]


def _centres(low: float, high: float) -> np.ndarray:
    return low + (np.arange(BINS) + 0.5) * (high - low) / BINS


def _smoothed(rows: pa.Table, column: str) -> np.ndarray:
    """float32[BINS, BINS]: square roots of the counts, each spread over its neighbours."""
    counts = np.zeros((BINS, BINS))
    counts[rows["j"].to_numpy(), rows["i"].to_numpy()] = rows[column].to_numpy()
    for axis in (0, 1):
        padded = np.pad(counts, [(2, 2) if a == axis else (0, 0) for a in (0, 1)])
        counts = np.sum([share * np.take(padded, range(i, i + BINS), axis)
                         for i, share in enumerate((0.06, 0.24, 0.4, 0.24, 0.06))], axis=0)
    return np.sqrt(counts).astype(np.float32)


def add_names(figure: go.Figure, centres: list[tuple[str, float, float]]) -> None:
    """Names of clusters at their centres, the first ones first, as long as they have room."""
    taken: list[tuple[float, float, float]] = []
    for text, x, y in centres:
        across, down = (_share(figure.layout[axis].range, v) for axis, v in
                        (("xaxis", x), ("yaxis", y)))
        width = LABEL_WIDTH * len(text)
        if all(abs(across - a) > (width + w) / 2 or abs(down - d) > LABEL_HEIGHT
               for a, d, w in taken):
            taken.append((across, down, width))
            figure.add_annotation(x=x, y=y, text=plain(text), showarrow=False, name="cluster",
                                  font={"size": 12, "color": theme.INK}, borderpad=1,
                                  bgcolor="rgba(255,255,255,0.72)")


def _share(ends: tuple[float, float], value: float) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])
