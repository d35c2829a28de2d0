"""Matched heads of two models, one pair a tile, and the choice of the two models."""

from __future__ import annotations

import json

from dashapp import html, theme
from dashapp.facts import Facts
from dashapp.figures.panes import short_name
from dashapp.parts import button
from dashapp.pictures import head_picture
from dashapp.state import State
from store.schema import measure

MOST = 12


def panel(rows: list[dict], state: State, facts: Facts) -> list:
    """The models to choose from, and the pairs of `compare_queries.matched`."""
    if state.paired is None:
        return [html.P("No pair of models to compare.", className="hint")]
    return [html.Div([_models(side, state, facts) for side in (0, 1)], className="pair-models"),
            html.Div([_tile(row, state, facts) for row in rows[:MOST]], className="pair-tiles")]


def _models(side: int, state: State, facts: Facts) -> html.Element:
    """A button per model on show: that one on this side. The other side's model turns the pair."""
    assert state.paired is not None
    made = []
    for name in state.models:
        pair = [name, state.paired[1]] if side == 0 else [state.paired[0], name]
        index = facts.model(name).index
        mark = html.Span(theme.glyph(index), className="glyph",
                         style={"color": theme.model_colour(index)})
        now = name == state.paired[side]
        made.append(button([mark, f" {short_name(name, 20)}"], look="turn" + " now" * now,
                           tip=f"{('heads of', 'matched with heads of')[side]} {name}",
                           gesture=json.dumps({"kind": "pair", "models": pair})))
    return html.Div([html.Span(("heads of", "matched with those of")[side], className="hint"),
                     *made], className="turns")


def _tile(row: dict, state: State, facts: Facts) -> html.Element:
    column = measure(state.compared)
    keys = [(row["model"], row["layer"], row["head"]),
            (row["other_model"], row["other_layer"], row["other_head"])]
    sure = bool(row["matched"])
    values = [_said(row[name]) for name in ("value", "other_value")]
    difference = "" if row["difference"] is None else f"{row['difference']:+.3g}"
    word = "matched" if sure else "no match"
    picked = " now" if set(keys) <= set(state.selection.heads) else ""
    heads = [html.Span([head_picture(facts, key, "patch", 3), html.Span([
        html.B(f"{key[1]}.{key[2]}"), html.Span(value), html.Span(pattern or "", className="hint")],
        className="tile-facts")], className="pair-head")
        for key, value, pattern in zip(keys, values, (row["pattern"], row["other_pattern"]),
                                       strict=True)]
    p = "" if row["p_value"] is None else f", p = {row['p_value']:.2g}"
    return button([
        heads[0], html.Span([html.B(difference), html.Span(f"sim. {row['similarity']:.2f}"),
                             html.Span(word, className=f"verdict {word}")], className="between"),
        heads[1]], look="tile pair" + picked, op="replace",
        keys=json.dumps([f"{layer}.{head}@{model}" for model, layer, head in keys]),
        tip=f"{column.label} {values[0]} in {row['model']} {row['layer']}.{row['head']}, "
            f"{values[1]} in {row['other_model']} {row['other_layer']}.{row['other_head']}; "
            f"similarity of their patterns {row['similarity']:.3f}{p}")


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
