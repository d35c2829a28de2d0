"""Image Overview: a scatter of all images for each model, side by side on one colour scale."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dashapp import theme
from dashapp.chart import Figure, bits, codes, numbers
from dashapp.facts import Model
from dashapp.figures.columns import by_model, flags, floats
from dashapp.figures.panes import Pane, columns_for, height_of, name_above, panes
from dashapp.theme import plain
from store.selection import Region

SVG_POINTS = 2000
THUMBNAILS = 150
HOVER_POINTS = 3000
"""With more dots than these in all, the mouse is told an image's number only, not its path."""

PLACE_BITS, COLOUR_BITS = 12, 8
"""How exactly dots travel: a 4,094th of a pane's width, a 254th of the colour scale."""


def draw(rows: pa.Table, models: list[Model], colour: Colour, *, regions: tuple[Region, ...] = (),
         focus: int | None = None, thumbnails: bool = False, image_url: str = "thumbnail/"
         ) -> Figure:
    """`rows` as `queries.overview` gives them. Dots that do not pass the filters are greyed."""
    spots = panes(len(models), columns_for(len(models)), gap_x=0.025, gap_y=0.09)
    figure = theme.bare(height_of(len(models)))
    layout = figure["layout"]
    layout |= {"dragmode": "lasso", "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
               "coloraxis": colour.axis, "modebar": {**layout["modebar"], "orientation": "h"}}
    gl = rows.num_rows / len(models) > SVG_POINTS
    found = by_model(rows)
    for model, pane in zip(models, spots, strict=True):
        dots = Dots.of(found.get(model.name, rows.slice(0, 0)), colour)
        layout |= _axes(pane, _range(dots.x), _range(dots.y))
        trace = _scatter(dots, model, colour, pane, gl)
        _hover(trace, dots, model, rows.num_rows <= HOVER_POINTS)
        figure["data"].append(trace)
        undefined = not np.isfinite(dots.values).any()
        name_above(figure, model, pane, " <i>(colour undefined)</i>" if undefined else "")
        layout["shapes"] += _outlines(regions, model, pane) + _mark(dots, focus, pane)
        if thumbnails:
            layout["images"] += _thumbnails(dots, pane, image_url)
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
        if self.name != "label":
            return floats(rows[self.name])
        names, last = self.categories or [], len(self.categories or []) - 1
        place = floats(pc.index_in(rows["label"], pa.array(names, pa.string())))
        value = np.where(np.isfinite(place), last - place, 0.0)
        return np.where(flags(rows["label"].is_valid()), value, np.nan)

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


class Dots:
    """The dots of one model: the table's rows, and as arrays what is drawn of them."""

    def __init__(self, rows: pa.Table, values: np.ndarray) -> None:
        self.rows, self.values = rows, values
        self.x, self.y = floats(rows["x"]), floats(rows["y"])
        self.image, self.kept = rows["image"].to_numpy(), flags(rows["kept"])

    @staticmethod
    def of(rows: pa.Table, colour: Colour) -> Dots:
        return Dots(rows, colour.values(rows))

    def __len__(self) -> int:
        return self.rows.num_rows


def _range(values: np.ndarray) -> list[float] | None:
    """From the dots, so that no lasso's outline widens an axis."""
    known = values[np.isfinite(values)]
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


def _scatter(dots: Dots, model: Model, colour: Colour, pane: Pane, gl: bool) -> dict:
    """A trace whose places, colours and passing dots are made from `packed` by the page."""
    size = 7 if len(dots) <= 800 else 5 if len(dots) <= 4000 else 3
    packed: dict = {"x": codes(dots.x, PLACE_BITS), "y": codes(dots.y, PLACE_BITS)}
    marker: dict = {"size": size, "color": theme.MUTED, "opacity": 0.6}
    if np.isfinite(dots.values).any():
        packed["colour"] = codes(dots.values, COLOUR_BITS, 1.0 if colour.categories else None)
        marker = {"size": size, "coloraxis": "coloraxis", "opacity": 0.9, "line": {"width": 0}}
    if not dots.kept.all():
        packed["kept"] = bits(dots.kept)
    return {"type": "scattergl" if gl else "scatter", "mode": "markers",
            "xaxis": f"x{pane.axis}", "yaxis": f"y{pane.axis}", "name": plain(model.name),
            "meta": {"model": model.name, "dots": len(dots), "packed": packed}, "marker": marker,
            "selected": {"marker": {"opacity": 0.9}},
            "unselected": {"marker": {"color": theme.FAINT, "opacity": 0.45}}}


def _hover(trace: dict, dots: Dots, model: Model, told: bool) -> None:
    """What the mouse is told, and the numbers of the images (counted from the first, if they run
    on without a gap)."""
    if len(dots) and (np.diff(dots.image) == 1).all():
        trace["meta"]["packed"]["first"] = int(dots.image[0])
    else:
        trace["customdata"] = numbers(dots.image, np.int32)
    if told:
        trace |= {"text": _texts(dots.rows), "hovertemplate": "%{text}<extra></extra>"}
    else:
        trace["hovertemplate"] = (f"<b>image %{{customdata}}</b><br>{plain(model.name)}"
                                  "<extra></extra>")


def _texts(rows: pa.Table) -> list[str]:
    named = {name: plain(name) for column in ("label", "predicted")
             for name in pc.unique(rows[column]).to_pylist() if name is not None}
    columns = (rows[c].to_pylist() for c in ("image", "path", "label", "predicted", "probability"))
    return [f"<b>image {image}</b> {plain(path)}"
            + (f"<br>label {named[label]}" if label is not None else "")
            + (f"<br>predicted {named[predicted]} ({probability:.3f})"
               if predicted is not None else "")
            for image, path, label, predicted, probability in zip(*columns, strict=True)]


def _outlines(regions: tuple[Region, ...], model: Model, pane: Pane) -> list[dict]:
    """What was lassoed in this pane."""
    return [{"type": "path", "xref": f"x{pane.axis}", "yref": f"y{pane.axis}",
             "path": "M" + "L".join(f"{x:g},{y:g}" for x, y in region.points) + "Z",
             "line": {"color": theme.ACCENT, "width": 1.2, "dash": "dot"},
             "fillcolor": "rgba(17,24,39,0.04)", "layer": "below"}
            for region in regions if region.model == model.name]


def _mark(dots: Dots, focus: int | None, pane: Pane) -> list[dict]:
    """A ring around the focused image, over dots and thumbnails."""
    return [{"type": "circle", "xref": f"x{pane.axis}", "yref": f"y{pane.axis}", "name": "focus",
             "xsizemode": "pixel", "ysizemode": "pixel", "xanchor": float(dots.x[i]),
             "yanchor": float(dots.y[i]), "x0": -8, "x1": 8, "y0": -8, "y1": 8,
             "line": {"color": theme.ACCENT, "width": 2.5}}
            for i in (() if focus is None else np.flatnonzero(dots.image == focus))]


def _thumbnails(dots: Dots, pane: Pane, image_url: str) -> list[dict]:
    """Images in place of dots, those that pass first, as many as a browser draws at ease."""
    n, placed = pane.axis, np.flatnonzero(np.isfinite(dots.x + dots.y))
    if not len(placed):
        return []
    first = placed[np.argsort(~dots.kept[placed], kind="stable")][:THUMBNAILS]
    wide, high = (np.ptp(values[placed]) for values in (dots.x, dots.y))
    side = max(wide, high, 1e-6) / max(10, 1.6 * math.sqrt(len(first)))
    look = {"xref": f"x{n}", "yref": f"y{n}", "sizex": float(side), "sizey": float(side),
            "xanchor": "center", "yanchor": "middle", "layer": "above"}
    return [{**look, "source": f"{image_url}{dots.image[j]}", "x": float(dots.x[j]),
             "y": float(dots.y[j]), "opacity": 1.0 if dots.kept[j] else 0.18}
            for j in np.sort(first)]
