"""Small multiples: where each model's pane lies in a figure, and its name above it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashapp import theme
from dashapp.chart import Figure
from dashapp.facts import Model
from dashapp.theme import plain


@dataclass(frozen=True)
class Pane:
    """The i-th of `count` panes. `axis` is what Plotly appends to x and y for it."""

    index: int
    columns: int
    count: int
    x: tuple[float, float]
    y: tuple[float, float]

    @property
    def axis(self) -> str:
        return str(self.index + 1) if self.index else ""

    @property
    def first_in_row(self) -> bool:
        return self.index % self.columns == 0

    @property
    def last_in_column(self) -> bool:
        return self.index + self.columns >= self.count


def panes(count: int, columns: int, gap_x: float, gap_y: float) -> list[Pane]:
    """`count` panes in rows of `columns`, gaps in shares of the figure."""
    rows = math.ceil(count / columns)
    width = (1 - gap_x * (columns - 1)) / columns
    height = (1 - gap_y * (rows - 1)) / rows
    made = []
    for i in range(count):
        left, top = (i % columns) * (width + gap_x), 1 - (i // columns) * (height + gap_y)
        made.append(Pane(i, columns, count, (_unit(left), _unit(left + width)),
                         (_unit(top - height), _unit(top))))
    return made


def columns_for(count: int, widest: int = 3) -> int:
    """Columns of an even grid: one row up to `widest`, then two or more."""
    return math.ceil(count / math.ceil(count / widest))


def height_of(count: int) -> int:
    """Pixels for `count` models in rows of up to three; two views side by side share it."""
    rows = math.ceil(count / columns_for(count))
    return 285 if rows == 1 else 180 * rows


def name_above(figure: Figure, model: Model, pane: Pane, note: str = "") -> None:
    """The model's symbol and name, over the pane's top left corner, as long as it has room."""
    room = {1: 48, 2: 28, 3: 19}.get(pane.columns, 13)
    figure["layout"]["annotations"].append({
        "text": f"<span style='color:{theme.model_colour(model.index)}'>"
                f"{theme.glyph(model.index)}</span> {plain(short_name(model.name, room))}{note}",
        "x": 0, "xref": f"x{pane.axis} domain", "y": 1, "yref": f"y{pane.axis} domain",
        "xanchor": "left", "yanchor": "bottom", "showarrow": False,
        "font": {"size": 12, "color": theme.INK}})


def short_name(name: str, length: int = 22) -> str:
    """The name, with its middle left out where it is long."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:length - 1 - half]}…{name[-half:]}"


def _unit(value: float) -> float:
    return min(1.0, max(0.0, round(value, 6)))
