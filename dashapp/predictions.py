"""The five most probable classes of the unpruned model beside those under a mode."""

from __future__ import annotations

from collections.abc import Sequence

from dashapp import html, theme
from dashapp.figures import partial as figures
from dashapp.figures.panes import short_name
from dashapp.figures.strength import Series
from dashapp.gallery import kept
from dashapp.state import State
from store.schema import MODES

TILES = 12
"""Images to click, of those that have partial pruning."""


def panel(rows: list[dict], series: Sequence[Series], state: State, images: Sequence[int],
          focus: int | None, label: str | None) -> html.Element:
    """A pair of lists for each head, from rows of `partial_queries.predictions`, and the images
    that have partial pruning; the focused image's `label` is marked."""
    lists: dict[tuple, list[dict]] = {}
    for row in rows:
        lists.setdefault((row["model"], row["layer"], row["head"], row["mode"]), []).append(row)
    pairs = [_pair(one, lists.get((*one.key, "none"), []), lists.get((*one.key, state.mode), []),
                   state.mode, label) for one in series]
    tiles = [html.Div(["Images with partial pruning:", kept(tuple(images), focus, TILES)],
                      className="hint measured")] if images else []
    return html.Div([html.Div(pairs, className="pairs"), *tiles])


def _pair(one: Series, before: list[dict], after: list[dict], mode: str, label: str | None):
    name = f"{one.model.name}, layer {one.layer}, head {one.head}"
    lists = [_list("none", before, [], one, label)]
    if mode != "none":
        lists.append(_list(mode, after, before, one, label))
    glyph = html.Span(theme.glyph(one.model.index), className="glyph",
                      style={"color": theme.model_colour(one.model.index)})
    short = f" {short_name(one.model.name)} {one.layer}.{one.head}"
    return html.Div([html.Div([glyph, html.Span(short)], className="top5-model", title=name),
                     html.Div(lists, className="lists")], className="pair")


def _list(mode: str, rows: list[dict], before: list[dict], one: Series, label: str | None):
    head = html.Div([html.Img(src=figures.picture(mode), alt=""), figures.DRAWN[mode].name],
                    className="mode-name", title=f"set to 0: {MODES[mode]}")
    unpruned = {row["class"]: row["probability"] for row in before}
    body = [_bar(row, unpruned.get(row["class"]), one.colour, label) for row in rows] or \
        [html.Div("not defined: no class token", className="hint")]
    return html.Div([head, *body], className="top5")


def _bar(row: dict, before: float | None, colour: str, label: str | None):
    least = "≥ " if row["listed"] < row["images"] else ""
    was = "" if before is None else f", {before:.4f} with nothing set to 0"
    tick = [] if before is None else [html.Div(className="tick",
                                               style={"left": f"{100 * before:.1f}%"})]
    right = " right" if label is not None and row["name"] == label else ""
    return html.Div([
        html.Div(className="bar", style={"width": f"{100 * row['probability']:.1f}%",
                                         "background": colour}), *tick,
        html.Span(row["name"], className="bar-name" + right),
        html.Span(f"{least}{row['probability']:.3f}", className="bar-value")],
        className="bar-row", title=f"{row['name']}: {least}{row['probability']:.4f}{was}")
