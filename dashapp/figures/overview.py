"""Image Overview: a scatter of all images for each model, side by side on one colour scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dashapp import theme
from dashapp.chart import Figure, HeldList, bits, codes, numbers
from dashapp.facts import Model
from dashapp.figures.columns import Same, flags, floats, spans
from dashapp.figures.panes import Pane, columns_for, height_of, name_above, panes
from dashapp.theme import plain
from store.selection import Region

SVG_POINTS = 2000
THUMBNAILS = 150
HOVER_POINTS = 3000
"""With more dots than these in all, the mouse is told an image's number only, not its path."""

TOLD = ("image", "path", "label", "predicted", "probability")
"""What it is told else."""

PLACE_BITS, COLOUR_BITS = 12, 8
"""How exactly dots travel: a 4,094th of a pane's width, a 254th of the colour scale."""


def draw(rows: pa.Table, models: list[Model], colour: Colour, *, regions: tuple[Region, ...] = (),
         focus: int | None = None, thumbnails: bool = False, image_url: str = "thumbnail/"
         ) -> Figure:
    """`rows` as `queries.overview` gives them. Dots that do not pass the filters are greyed."""
    spots = panes(len(models), columns_for(len(models)), gap_x=0.025, gap_y=0.09)
    figure = theme.bare(height_of(len(models)))
    axis, colours = _painted(Same(rows.select(["model", colour.name])), colour)
    layout = figure["layout"]
    layout |= {"dragmode": "lasso", "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
               "coloraxis": axis, "modebar": {**layout["modebar"], "orientation": "h"}}
    gl = rows.num_rows / len(models) > SVG_POINTS
    found = _dots(Same(rows.select(["model", "image", "x", "y"])))
    told = _texts(Same(rows.select(["model", *TOLD]))) if rows.num_rows <= HOVER_POINTS else None
    kept = flags(rows["kept"])
    for model, pane in zip(models, spots, strict=True):
        dots, code = found.get(model.name, NO_DOTS), colours.get(model.name)
        own = kept[dots.rows]
        layout |= _axes(pane, dots.x_range, dots.y_range)
        trace = _scatter(dots, code, own, model, pane, gl)
        if told is None:
            trace["hovertemplate"] = (f"<b>image %{{customdata}}</b><br>{plain(model.name)}"
                                      "<extra></extra>")
        else:
            trace |= {"text": told.get(model.name, []), "hovertemplate": "%{text}<extra></extra>"}
        figure["data"].append(trace)
        name_above(figure, model, pane, "" if code else " <i>(colour undefined)</i>")
        layout["shapes"] += _outlines(regions, model, pane) + _mark(dots, focus, pane)
        if thumbnails:
            layout["images"] += _thumbnails(dots, own, pane, image_url)
    return figure


@dataclass(frozen=True)
class Colour:
    """How dots are coloured: a number each, and the colour axis that reads them. `names`: of the
    labels that have a colour."""

    name: str
    title: str
    names: tuple[str, ...] = ()
    diverging: bool = False

    @property
    def categories(self) -> tuple[str, ...]:
        return {"label": self.names, "correct": ("correct", "wrong")}.get(self.name, ())

    def values(self, rows: pa.Table) -> np.ndarray:
        """float[n]; NaN where undefined."""
        if self.name != "label":
            return floats(rows[self.name])
        last = len(self.names) - 1
        place = floats(pc.index_in(rows["label"], pa.array(self.names, pa.string())))
        value = np.where(np.isfinite(place), last - place, 0.0)
        return np.where(flags(rows["label"].is_valid()), value, np.nan)

    def axis(self, values: np.ndarray) -> dict:
        names = list(self.categories)
        if not names:
            return self._continuous(values)
        palette = ("#2f7f6f", "#c2410c") if self.name == "correct" else \
            tuple(theme.CATEGORIES[i % len(theme.CATEGORIES)] for i in range(len(names)))
        return theme.category_axis(self.name, names, palette)

    def _continuous(self, values: np.ndarray) -> dict:
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        split = self.diverging and low < 0
        return {"cmin": low, "cmax": high,
                "colorscale": theme.diverging(low, high) if split else
                theme.scale(theme.SEQUENTIAL[1:]),
                "colorbar": {**theme.BAR, "title": theme.bar_title(self.title),
                             "lenmode": "pixels", "len": 230}}


@lru_cache(4)
def _painted(still: Same, colour: Colour) -> tuple[dict, dict[str, dict]]:
    """The colour axis, and the colours of each model's dots, where any has one."""
    values, found = colour.values(still.rows), {}
    for model, own in spans(still.rows["model"]).items():
        if np.isfinite(values[own]).any():
            found[model] = codes(values[own], COLOUR_BITS, 1.0 if colour.categories else None)
    return colour.axis(values), found


@dataclass(frozen=True)
class Dots:
    """Where the dots of one model are, which do not move: as arrays, packed, and as axes. `rows`:
    theirs in the table."""

    rows: slice
    x: np.ndarray
    y: np.ndarray
    image: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def x_range(self) -> list[float] | None:
        return _range(self.x)

    @cached_property
    def y_range(self) -> list[float] | None:
        return _range(self.y)

    @cached_property
    def trace(self) -> dict:
        """What a trace says of their places, and of the numbers of the images (counted from the
        first, if they run on without a gap)."""
        packed = {"x": codes(self.x, PLACE_BITS), "y": codes(self.y, PLACE_BITS)}
        if len(self) and (np.diff(self.image) == 1).all():
            return {"meta": {"packed": packed | {"first": int(self.image[0])}}}
        return {"meta": {"packed": packed}, "customdata": numbers(self.image, np.int32)}


NO_DOTS = Dots(slice(0), np.empty(0), np.empty(0), np.empty(0, int))


@lru_cache(4)
def _dots(still: Same) -> dict[str, Dots]:
    """The dots of each model."""
    x, y = (floats(still.rows[axis]) for axis in "xy")
    image = still.rows["image"].to_numpy()
    return {model: Dots(own, x[own], y[own], image[own])
            for model, own in spans(still.rows["model"]).items()}


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


def _scatter(dots: Dots, colours: dict | None, kept: np.ndarray, model: Model, pane: Pane,
             gl: bool) -> dict:
    """A trace whose places, colours and passing dots are made from `packed` by the page."""
    size = 7 if len(dots) <= 800 else 5 if len(dots) <= 4000 else 3
    packed: dict = dict(dots.trace["meta"]["packed"])
    marker: dict = {"size": size, "color": theme.MUTED, "opacity": 0.6}
    if colours:
        packed["colour"] = colours
        marker = {"size": size, "coloraxis": "coloraxis", "opacity": 0.9, "line": {"width": 0}}
    if not kept.all():
        packed["kept"] = bits(kept)
    return {**dots.trace, "type": "scattergl" if gl else "scatter", "mode": "markers",
            "xaxis": f"x{pane.axis}", "yaxis": f"y{pane.axis}", "name": plain(model.name),
            "meta": {"model": model.name, "dots": len(dots), "packed": packed}, "marker": marker,
            "selected": {"marker": {"opacity": 0.9}},
            "unselected": {"marker": {"color": theme.FAINT, "opacity": 0.45}}}


@lru_cache(4)
def _texts(still: Same) -> dict[str, HeldList]:
    """What the mouse is told of each dot of a model."""
    rows = still.rows
    named = {name: plain(name) for column in ("label", "predicted")
             for name in pc.unique(rows[column]).to_pylist() if name is not None}
    said = [
        f"<b>image {image}</b> {plain(path)}"
        + (f"<br>label {named[label]}" if label is not None else "")
        + (f"<br>predicted {named[predicted]} ({probability:.3f})" if predicted is not None else "")
        for image, path, label, predicted, probability
        in zip(*(rows[c].to_pylist() for c in TOLD), strict=True)]
    return {model: HeldList(said[own]) for model, own in spans(rows["model"]).items()}


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


def _thumbnails(dots: Dots, kept: np.ndarray, pane: Pane, image_url: str) -> list[dict]:
    """Images in place of dots, those that pass first, as many as a browser draws at ease."""
    n, placed = pane.axis, np.flatnonzero(np.isfinite(dots.x + dots.y))
    if not len(placed):
        return []
    first = placed[np.argsort(~kept[placed], kind="stable")][:THUMBNAILS]
    wide, high = (np.ptp(values[placed]) for values in (dots.x, dots.y))
    side = max(wide, high, 1e-6) / max(10, 1.6 * math.sqrt(len(first)))
    look = {"xref": f"x{n}", "yref": f"y{n}", "sizex": float(side), "sizey": float(side),
            "xanchor": "center", "yanchor": "middle", "layer": "above"}
    return [{**look, "source": f"{image_url}{dots.image[j]}", "x": float(dots.x[j]),
             "y": float(dots.y[j]), "opacity": 1.0 if kept[j] else 0.18}
            for j in np.sort(first)]
