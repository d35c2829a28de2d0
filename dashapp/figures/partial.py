"""Partial pruning: what is left under each mode, and the modes as little matrices."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dashapp import theme
from dashapp.chart import Figure
from dashapp.figures.strength import Series
from store.schema import MODES, Column

HEIGHT = 390

Inside = Callable[[int, int], bool]
Edges = Sequence[tuple[int, int]]
Layer = tuple[Edges, Inside, str]


@dataclass(frozen=True)
class Mode:
    """How a mode of `store.schema.MODES` is drawn: its name under a chart, and whether it sets the
    weight of query q on key k to 0 (0: the class token)."""

    name: str
    removes: Inside


DRAWN: dict[str, Mode] = {
    "none": Mode("nothing", lambda q, k: False),
    "head": Mode("whole head", lambda q, k: True),
    "cls": Mode("class row, column", lambda q, k: not q or not k),
    "patches": Mode("patches ↔ patches", lambda q, k: bool(q and k)),
    "cls_patches": Mode("class ↔ patches", lambda q, k: (not q) != (not k)),
    "cls_self": Mode("class → class", lambda q, k: not q and not k),
    "cls_row": Mode("class row", lambda q, k: not q),
    "cls_column": Mode("class column", lambda q, k: not k),
    "patch_self": Mode("patch → itself", lambda q, k: bool(q) and q == k),
    "patch_others": Mode("patch → others", lambda q, k: bool(q and k) and q != k),
}

_EDGES: Edges = ((1, 8), (9, 13), (13, 17), (17, 21), (21, 25))
"""Where each token of a little matrix begins and ends, in pixels; the class token is enlarged."""

SIDE = 26
_STRIP = SIDE + 14
_MARGIN = {"l": 58, "r": 10, "t": 30, "b": 46}


def bars(cells: Mapping[tuple, dict], series: Sequence[Series], column: Column, chosen: str
         ) -> Figure:
    """A group of bars for each mode, one of each series; the modes as little matrices below.

    `cells`: rows of `partial_queries.by_mode` by (model, layer, head, mode).
    """
    room = HEIGHT - _MARGIN["t"] - _MARGIN["b"]
    layout = theme.bare(HEIGHT)["layout"]
    names = [theme.wrapped(DRAWN[mode].name, 10) for mode in MODES]
    layout.update(
        barmode="group", bargap=0.3, bargroupgap=0.08, dragmode=False, showlegend=True,
        margin=_MARGIN, meta={},
        shapes=[_band(list(MODES).index(chosen)), *_unpruned(cells, series),
                *(s for i, mode in enumerate(MODES) for s in _icon(i, mode, mode == chosen))],
        xaxis={"tickvals": list(range(len(MODES))), "fixedrange": True, "showgrid": False,
               "ticktext": [f"<b>{text}</b>" if mode == chosen else text
                            for mode, text in zip(MODES, names, strict=True)],
               "tickfont": {"size": 10.5, "color": theme.MUTED}, "ticks": "", "showline": False,
               "range": [-0.6, len(MODES) - 0.4], "anchor": "y2", "automargin": True,
               "autotickangles": [0, 90],
               "title": {"text": "part of the attention matrix that is set to 0"}},
        yaxis={"title": {"text": column.title}, "rangemode": "tozero", "fixedrange": True,
               "domain": [_STRIP / room, 1], "zeroline": True, "zerolinecolor": theme.FAINT},
        yaxis2={"visible": False, "range": [-1, 1], "fixedrange": True,
                "domain": [0, (_STRIP - 4) / room]})
    return {"data": [*(_bar(one, cells, column) for one in series), _handles()], "layout": layout}


def _bar(one: Series, cells: Mapping[tuple, dict], column: Column) -> dict[str, Any]:
    found = [cells.get((*one.key, mode), {}) for mode in MODES]
    before = found[0].get("value")
    return {
        "type": "bar", "x": list(range(len(MODES))), "y": [cell.get("value") for cell in found],
        "name": one.name, "marker": {"color": one.colour}, "meta": {"modes": list(MODES)},
        "text": [_words(one, mode, cell, before, column)
                 for mode, cell in zip(MODES, found, strict=True)],
        "textposition": "none", "hovertemplate": "%{text}<extra></extra>",
        "error_y": {"type": "data", "symmetric": False, "thickness": 1, "width": 0,
                    "color": theme.MUTED, "array": [_gap(cell, "high") for cell in found],
                    "arrayminus": [_gap(cell, "low") for cell in found]}}


def _gap(cell: dict, end: str) -> float | None:
    value, other = cell.get("value"), cell.get(end)
    return None if value is None or other is None else abs(other - value)


def _words(one: Series, mode: str, cell: dict, before: float | None, column: Column) -> str:
    value = cell.get("value")
    head = f"<b>{one.name}</b><br>{_definition(mode)}"
    if value is None:
        return head
    unit = f" {column.unit}" if column.unit else ""
    over = f"<br>mean over {cell['images']:,} images" if cell["images"] > 1 else ""
    change = "" if before is None or mode == "none" else \
        f"<br>{value - before:+.4g} against nothing set to 0".replace("-", "−")
    return f"{head}<br>{theme.plain(column.label)} {value:.4g}{unit}{change}{over}"


def _definition(mode: str) -> str:
    return f"set to 0: {theme.wrapped(MODES[mode], 44)}"


def _unpruned(cells: Mapping[tuple, dict], series: Sequence[Series]) -> list[dict]:
    """A dashed line for each model, at its value with nothing set to 0."""
    lines: dict[str, dict] = {}
    for one in series:
        value = cells.get((*one.key, "none"), {}).get("value")
        if value is not None:
            lines.setdefault(one.model.name, {
                "type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": value,
                "y1": value, "line": {"color": theme.model_colour(one.model.index), "width": 1,
                                      "dash": "dash"}})
    return list(lines.values())


def _band(place: int) -> dict[str, Any]:
    """The chosen mode, from the bars to its name."""
    return {"type": "rect", "xref": "x", "yref": "paper", "x0": place - 0.5, "x1": place + 0.5,
            "y0": 0, "y1": 1, "fillcolor": theme.LINE, "opacity": 0.5, "line": {"width": 0},
            "layer": "below"}


def _handles() -> dict[str, Any]:
    """What the mouse finds where the little matrices are: shapes answer no click."""
    return {"type": "scatter", "mode": "markers", "x": list(range(len(MODES))),
            "y": [0] * len(MODES), "yaxis": "y2", "showlegend": False,
            "marker": {"symbol": "square", "size": SIDE + 4, "opacity": 0},
            "meta": {"modes": list(MODES)}, "text": [_definition(mode) for mode in MODES],
            "hovertemplate": "%{text}<extra></extra>"}


@cache
def _icon(place: int, mode: str, chosen: bool) -> list[dict]:
    """A mode's matrix under the axis. Fills alone, no strokes: these stay sharp at any place."""
    where = {"type": "path", "xref": "x", "yref": "y2", "xsizemode": "pixel",
             "ysizemode": "pixel", "xanchor": place, "yanchor": 0, "line": {"width": 0}}
    frame = [([(-4, SIDE + 4)], _all, theme.ACCENT), ([(-2, SIDE + 2)], _all, theme.PAPER)]
    layers = [*(frame if chosen else []), *_layers(mode)]
    return [{**where, "path": _path(edges, inside, -1), "fillcolor": colour}
            for edges, inside, colour in layers if _path(edges, inside, -1)]


def _layers(mode: str) -> list[Layer]:
    """A mode's matrix, from its ground up."""
    return [([(0, SIDE)], _all, theme.FAINT), (_EDGES, _all, theme.PAPER),
            (_EDGES, DRAWN[mode].removes, theme.INK)]


def _all(query: int, key: int) -> bool:
    return True


def _path(edges: Edges, inside: Inside, up: int) -> str:
    """The cells of a matrix as one path around its centre; `up` is -1 where y grows upwards."""
    half = SIDE // 2
    return "".join(
        f"M{left - half},{up * (top - half)}L{right - half},{up * (top - half)}"
        f"L{right - half},{up * (bottom - half)}L{left - half},{up * (bottom - half)}Z"
        for q, (top, bottom) in enumerate(edges) for k, (left, right) in enumerate(edges)
        if inside(q, k))


@cache
def picture(mode: str) -> str:
    """A mode's matrix as an address of an image, SIDE pixels square."""
    half = SIDE // 2
    paths = "".join(f'<path d="{_path(edges, inside, 1)}" fill="{colour}"/>'
                    for edges, inside, colour in _layers(mode))
    drawing = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{SIDE}" '
               f'viewBox="-{half} -{half} {SIDE} {SIDE}" shape-rendering="crispEdges">{paths}'
               "</svg>")
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode("ascii")
