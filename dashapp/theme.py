"""Colours, symbols and the bare figure that every chart starts from."""

from __future__ import annotations

import html
from functools import lru_cache
from typing import Any

from dashapp.chart import Figure

INK, MUTED, FAINT, LINE = "#1f2933", "#5b6773", "#c5ccd3", "#e6e9ed"
PAPER, UNDEFINED, ACCENT = "#ffffff", "#eceff2", "#111827"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0488a", "#3a3a8c", "#a67c00", "#4aa3c7",
                 "#7a4b2a")
MODEL_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
GLYPHS = ("●", "■", "◆", "▲", "✚", "✖", "★", "⬟")
"""Okabe and Ito's colour-blind-safe hues, darkened for thin lines; a symbol doubles each."""

CATEGORIES = ("#332288", "#cc6677", "#117733", "#ddaa33", "#66bbe0", "#882255", "#44aa99",
              "#8a8a2a", "#aa4499", "#5f5f5f")
"""Paul Tol's muted scheme."""

SEQUENTIAL = ("#eef4f7", "#c6dbe6", "#94bcd6", "#6898c8", "#5270b4", "#4a4795", "#3b2566",
              "#26123a")
NEGATIVE = ("#f5f5f2", "#c2dbe8", "#79b1d3", "#3581b9", "#134b87")
POSITIVE = ("#f5f5f2", "#f8d1b5", "#ee9d75", "#d1573f", "#8c1025")

CONFIG: Any = {"displaylogo": False, "showSendToCloud": False,
          "doubleClick": "autosize", "scrollZoom": False, "displayModeBar": "hover",
          "modeBarButtonsToRemove": ["zoomIn2d", "zoomOut2d", "resetScale2d"],
          "toImageButtonOptions": {"format": "svg"}}


def model_colour(index: int) -> str:
    return MODEL_COLOURS[index % len(MODEL_COLOURS)]


def model_symbol(index: int) -> str:
    return MODEL_SYMBOLS[index % len(MODEL_SYMBOLS)]


def glyph(index: int) -> str:
    return GLYPHS[index % len(GLYPHS)]


@lru_cache(256)
def tint(colour: str, alpha: float) -> str:
    """`#rrggbb` with an opacity."""
    r, g, b = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha:g})"


def shade(colour: str, amount: float) -> str:
    """`#rrggbb` mixed with white (amount > 0) or black (< 0)."""
    other = 255 if amount > 0 else 0
    parts = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(p + (other - p) * abs(amount)):02x}" for p in parts)


def scale(colours: tuple[str, ...]) -> list[list]:
    """A Plotly colour scale with even steps."""
    return [[i / (len(colours) - 1), c] for i, c in enumerate(colours)]


def diverging(low: float, high: float) -> list[list]:
    """The part of a blue-white-red scale that [low, high] covers, white at 0."""
    reach = max(abs(low), abs(high)) or 1.0
    span = (high - low) or 1.0
    stops = [-reach * i / 4 for i in range(4, 0, -1)] + [reach * i / 4 for i in range(5)]
    colours = tuple(reversed(NEGATIVE))[:4] + POSITIVE
    inside = [(v, c) for v, c in zip(stops, colours, strict=True) if low < v < high]
    ends = [(low, _at(low, stops, colours)), *inside, (high, _at(high, stops, colours))]
    return [[min(1.0, max(0.0, (v - low) / span)), c] for v, c in ends]


def _at(value: float, stops: list[float], colours: tuple[str, ...]) -> str:
    """The colour at a value, mixed from its neighbours."""
    for (a, left), (b, right) in zip(zip(stops, colours, strict=True),
                                     list(zip(stops, colours, strict=True))[1:], strict=False):
        if a <= value <= b:
            t = (value - a) / (b - a)
            mixed = (round(int(left[i:i + 2], 16) * (1 - t) + int(right[i:i + 2], 16) * t)
                     for i in (1, 3, 5))
            return "#" + "".join(f"{p:02x}" for p in mixed)
    return colours[-1] if value > 0 else colours[0]


_AXIS = {"gridcolor": LINE, "zeroline": False, "linecolor": FAINT, "ticks": "outside",
         "ticklen": 4, "tickcolor": FAINT, "tickfont": {"size": 11, "color": MUTED},
         "title": {"font": {"size": 12, "color": INK}, "standoff": 6}}
_TEMPLATE = {"layout": {"xaxis": _AXIS, "yaxis": _AXIS}}


def bare(height: int) -> Figure:
    """A figure with the page's fonts and margins, and no data."""
    return {"data": [], "layout": {
        "template": _TEMPLATE, "height": height, "autosize": True, "showlegend": False,
        "paper_bgcolor": PAPER, "plot_bgcolor": PAPER, "hovermode": "closest",
        "font": {"family": FONT, "size": 12, "color": INK},
        "margin": margins(),
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": FAINT, "align": "left",
                       "font": {"family": FONT, "size": 12, "color": INK}},
        "modebar": {"orientation": "v", "bgcolor": "rgba(255,255,255,0.7)", "color": FAINT,
                    "activecolor": MUTED},
        "newselection": {"line": {"color": ACCENT, "width": 1.5, "dash": "dot"}},
        "legend": {"font": {"size": 11}, "orientation": "h", "x": 0, "y": 1.0,
                   "yanchor": "bottom"},
        "shapes": [], "annotations": [], "images": []}}


def margins(**sides: int) -> dict[str, int]:
    """The margins of `bare`, with other ones on these sides."""
    return {"l": 56, "r": 14, "t": 10, "b": 44, **sides}


def plain(text: str) -> str:
    """A name from a user, as text: no markup, and nothing that a hover template would read."""
    return html.escape(text, quote=False).replace("%", "&#37;").replace("{", "&#123;")


def wrapped(text: str, width: int) -> str:
    """The text, made plain, in lines of about `width` characters."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(plain(line) for line in lines)


def bar_title(text: str) -> dict:
    """The title of a colour bar: above it, narrow, with a line's distance to the topmost number."""
    lines = wrapped(text, 13)
    gap = "<br>\u00a0" * (1 + lines.count("<br>"))
    return {"text": lines + gap, "side": "top", "font": {"size": 12}}


BAR = {"thickness": 10, "x": 1.0, "xanchor": "left", "y": 1, "yanchor": "top", "outlinewidth": 0,
       "tickfont": {"size": 11, "color": MUTED}, "xpad": 10}
"""A colour bar beside the upper right corner."""


def category_axis(title: str, names: list[str], palette: tuple[str, ...]) -> dict:
    """A colour axis of named colours, the first on top; what is named first has the number n - 1,
    what is named last 0."""
    n = len(names)
    colours = palette[::-1]  # a colour bar starts at its foot
    steps = [[(i + j) / n, colours[i]] for i in range(n) for j in (0, 1)]
    shown = [plain(x if len(x) <= 14 else x[:13] + "…") for x in reversed(names)]
    return {"cmin": -0.5, "cmax": n - 0.5, "colorscale": steps,
            "colorbar": {**BAR, "tickvals": list(range(n)), "ticktext": shown, "ticks": "",
                         "title": {"text": title, "side": "top"}, "lenmode": "pixels",
                         "len": min(256, 30 + 24 * n)}}


def says(figure: Figure, text: str, **where: object) -> Figure:
    """A sentence in place of data."""
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", **where}
    figure["layout"].setdefault("annotations", []).append(
        {"text": text, "showarrow": False, "font": {"size": 13, "color": MUTED}, **place})
    return figure


def empty(height: int, text: str) -> Figure:
    """A figure that only says something."""
    figure = says(bare(height), text)
    figure["layout"] |= {"xaxis": {"visible": False}, "yaxis": {"visible": False}}
    return figure
