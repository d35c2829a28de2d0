"""Image Overview: a scatter of all images for each model, side by side on one colour scale."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc

from dashapp import theme
from dashapp.facts import Model
from dashapp.figures.panes import Pane, columns_for, height_of, name_above, panes
from dashapp.theme import plain
from store.selection import Region

SVG_POINTS = 2000
THUMBNAILS = 150
HOVER_POINTS = 6000


def draw(rows: pa.Table, models: list[Model], colour: Colour, *, regions: tuple[Region, ...] = (),
         focus: int | None = None, thumbnails: bool = False, image_url: str = "thumbnail/"
         ) -> go.Figure:
    """`rows` as `queries.overview` gives them. Dots that do not pass the filters are greyed."""
    spots = panes(len(models), columns_for(len(models)), gap_x=0.025, gap_y=0.09)
    figure = theme.bare(height_of(len(models)))
    figure.update_layout(dragmode="lasso", margin={"l": 8, "r": 8, "t": 24, "b": 8},
                         coloraxis=colour.axis, modebar={"orientation": "h"},
                         **_all_axes(rows, models, spots))
    gl = rows.num_rows / len(models) > SVG_POINTS
    for model, pane in zip(models, spots, strict=True):
        own = rows.filter(pc.equal(rows["model"], model.name))
        figure.add_trace(_dots(own, model, colour, pane, gl, rows.num_rows <= HOVER_POINTS))
        undefined = not np.isfinite(colour.values(own)).any()
        name_above(figure, model, pane, " <i>(colour undefined)</i>" if undefined else "")
        _outline(figure, regions, model, pane)
        _mark(figure, own, focus, pane)
        if thumbnails:
            _thumbnails(figure, own, pane, image_url)
    return figure


class Colour:
    """How dots are coloured: a number each, and the colour axis that reads them."""

    def __init__(self, name: str, title: str, rows: pa.Table, labels: list[str],
                 diverging: bool = False) -> None:
        self.name = name
        self.categories = {"label": labels, "correct": ["correct", "wrong"]}.get(name)
        self.axis = self._categorical() if self.categories else self._continuous(
            title, self.values(rows), diverging)

    def values(self, rows: pa.Table) -> np.ndarray:
        """float[n]; NaN where undefined."""
        if self.name == "label":
            last = len(self.categories or []) - 1
            place = {label: last - i for i, label in enumerate(self.categories or [])}
            return np.array([np.nan if v is None else place.get(v, 0)
                             for v in rows["label"].to_pylist()], float)
        column = pc.cast(rows[self.name], pa.float64())
        return column.to_numpy(zero_copy_only=False).astype(float)

    def _categorical(self) -> dict:
        names = list(self.categories or [])
        palette = ("#2f7f6f", "#c2410c") if self.name == "correct" else \
            tuple(theme.CATEGORIES[i % len(theme.CATEGORIES)] for i in range(len(names)))
        return theme.category_axis(self.name, names, palette)

    def _continuous(self, title: str, values: np.ndarray, diverging: bool) -> dict:
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        split = diverging and low < 0
        return {"cmin": low, "cmax": high,
                "colorscale": theme.diverging(low, high) if split else
                theme.scale(theme.SEQUENTIAL[1:]),
                "colorbar": {**theme.BAR, "title": theme.bar_title(title),
                             "lenmode": "pixels", "len": 230}}


def _all_axes(rows: pa.Table, models: list[Model], spots: list[Pane]) -> dict:
    """The axes of every pane; ranges from the dots, so that no lasso's outline widens one."""
    made: dict = {}
    for model, pane in zip(models, spots, strict=True):
        own = rows.filter(pc.equal(rows["model"], model.name))
        made |= _axes(pane, _range(own["x"]), _range(own["y"]))
    return made


def _range(values: pa.ChunkedArray) -> list[float] | None:
    known = values.drop_null().to_numpy().astype(float)
    if not len(known):
        return None
    low, high = float(known.min()), float(known.max())
    room = 0.07 * (high - low) or 1.0
    return [low - room, high + room]


def _axes(pane: Pane, x: list[float] | None, y: list[float] | None) -> dict:
    look = {"showticklabels": False, "ticks": "", "showgrid": False, "mirror": True,
            "showline": True, "linecolor": theme.LINE}
    return {f"xaxis{pane.axis}": {**look, "domain": pane.x, "range": x, "anchor": f"y{pane.axis}"},
            f"yaxis{pane.axis}": {**look, "domain": pane.y, "range": y, "anchor": f"x{pane.axis}"}}


def _dots(rows: pa.Table, model: Model, colour: Colour, pane: Pane, gl: bool, hover: bool
          ) -> go.Scatter | go.Scattergl:
    n = pane.axis
    values = colour.values(rows)
    kept = rows["kept"].to_numpy(zero_copy_only=False).astype(bool)
    size = 7 if rows.num_rows <= 800 else 5 if rows.num_rows <= 4000 else 3
    kind = go.Scattergl if gl else go.Scatter
    trace = kind(
        x=rows["x"].to_numpy(), y=rows["y"].to_numpy(), mode="markers",
        xaxis=f"x{n}", yaxis=f"y{n}", name=plain(model.name),
        meta={"model": model.name}, customdata=rows["image"].to_pylist(),
        text=_hover(rows) if hover else [f"image {v}" for v in rows["image"].to_pylist()],
        hovertemplate="%{text}<extra></extra>",
        marker={"size": size, "color": np.where(np.isfinite(values), values, np.nan),
                "coloraxis": "coloraxis", "opacity": 0.9, "line": {"width": 0}},
        selected={"marker": {"opacity": 0.9}},
        unselected={"marker": {"color": theme.FAINT, "opacity": 0.45}})
    if not np.isfinite(values).any():
        trace.marker = {"size": size, "color": theme.MUTED, "opacity": 0.6}
    if not kept.all():
        trace.selectedpoints = np.flatnonzero(kept).tolist()
    return trace


def _hover(rows: pa.Table) -> list[str]:
    return [_line(r) for r in rows.select(
        ["image", "path", "label", "predicted", "probability"]).to_pylist()]


def _line(r: dict) -> str:
    label = f"<br>label {plain(r['label'])}" if r["label"] is not None else ""
    predicted = (f"<br>predicted {plain(r['predicted'])} ({r['probability']:.3f})"
                 if r["predicted"] is not None else "")
    return f"<b>image {r['image']}</b> {plain(r['path'])}{label}{predicted}"


def _outline(figure: go.Figure, regions: tuple[Region, ...], model: Model, pane: Pane
             ) -> None:
    n = pane.axis
    for region in regions:
        if region.model == model.name:
            path = "M" + "L".join(f"{x:g},{y:g}" for x, y in region.points) + "Z"
            figure.add_shape(type="path", path=path, xref=f"x{n}", yref=f"y{n}",
                             line={"color": theme.ACCENT, "width": 1.2, "dash": "dot"},
                             fillcolor="rgba(17,24,39,0.04)", layer="below")


def _mark(figure: go.Figure, rows: pa.Table, focus: int | None, pane: Pane) -> None:
    """A ring around the focused image, over dots and thumbnails."""
    own = rows.filter(pc.equal(rows["image"], -1 if focus is None else focus))
    for row in own.to_pylist():
        figure.add_shape(
            type="circle", xref=f"x{pane.axis}", yref=f"y{pane.axis}", name="focus",
            xsizemode="pixel", ysizemode="pixel", xanchor=row["x"], yanchor=row["y"],
            x0=-8, x1=8, y0=-8, y1=8, line={"color": theme.ACCENT, "width": 2.5})


def _thumbnails(figure: go.Figure, rows: pa.Table, pane: Pane, image_url: str) -> None:
    """Images in place of dots, those that pass first, as many as a browser draws at ease."""
    n = pane.axis
    x, y = rows["x"].to_numpy().astype(float), rows["y"].to_numpy().astype(float)
    kept = rows["kept"].to_numpy(zero_copy_only=False).astype(bool)
    order = np.argsort(~kept, kind="stable")
    shown = np.sort(order[:THUMBNAILS] if len(order) > THUMBNAILS else order)
    side = max(np.ptp(x), np.ptp(y), 1e-6) / max(10, 1.6 * math.sqrt(len(shown)))
    ids = rows["image"].to_pylist()
    figure.layout.images += tuple(go.layout.Image(
        source=f"{image_url}{ids[j]}", x=float(x[j]), y=float(y[j]), xref=f"x{n}", yref=f"y{n}",
        sizex=side, sizey=side, xanchor="center", yanchor="middle", layer="above",
        opacity=1.0 if kept[j] else 0.18) for j in shown)
