"""Two heads side by side: the pinned one, and the opened one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dashapp import html, theme
from dashapp.facts import Facts
from dashapp.figures.panes import short_name
from dashapp.parts import button
from dashapp.pictures import READING, head_picture
from dashapp.state import State
from store.schema import IMPORTANCE, STRENGTH, Column
from store.selection import HeadKey

Values = dict[HeadKey, dict]
"""Of one measure: head -> its row of `compare_queries.measures_of`."""


def written(head: HeadKey) -> str:
    """A head as a gesture and a URL name it."""
    return f"{head[1]}.{head[2]}@{head[0]}"


def pin_button(head: HeadKey, text: str) -> html.Element:
    return button(text, tip=f"pin {head[0]}, layer {head[1]}, head {head[2]}: it stays, and the "
                            "head chosen last is compared with it (Compare, E3)",
                  gesture=json.dumps({"kind": "pin", "keys": [written(head)]}))


UNPIN = json.dumps({"kind": "pin"})


def nothing(state: State, facts: Facts) -> list:
    """What to do while no head is pinned."""
    if state.opened is None:
        return [html.P("Choose a model above.", className="hint")]
    return [html.Div([
        html.P(["Pin a head, then click another one in any chart: the two stand here side by side, "
                "with all their measures. Opened now: ", _name(state.opened, facts), " ",
                pin_button(state.opened, "Pin it")], className="hint")])]


def _name(head: HeadKey, facts: Facts, room: int = 22) -> html.Element:
    model, layer, number = head
    index = facts.model(model).index
    return html.Span([
        html.Span(theme.glyph(index), className="glyph",
                  style={"color": theme.model_colour(index)}),
        f" {short_name(model, room)} ", html.B(f"{layer}.{number}")],
        title=f"{model}, layer {layer}, head {number}", className="head-name")


def panel(rows: Mapping[str, pa.Table], state: State, facts: Facts) -> list:
    """Both heads' pictures and facts, and their measures in two tables."""
    assert state.pin is not None
    assert state.opened is not None
    two = (state.pin, state.opened)
    about = _by_head(rows["heads"].to_pylist())
    measured: dict[str, Values] = {}
    for row in rows["measures"].to_pylist():
        measured.setdefault(row["measure"], {})[_key(row)] = row
    cards = [_card("pinned", two[0], about, facts),
             _between(two, about, rows["match"].to_pylist()),
             *([_card("opened", two[1], about, facts)] if two[0] != two[1] else [])]
    return [html.Div([
        html.Div(cards, className="two-heads"),
        *(_table(title, columns, measured, two, facts) for title, columns in (
            ("Importance", IMPORTANCE), ("Strength", STRENGTH)))], className="pinned")]


def _by_head(rows: list[dict]) -> Values:
    return {_key(row): row for row in rows}


def _key(row: dict) -> HeadKey:
    return row["model"], row["layer"], row["head"]


def _card(what: str, head: HeadKey, about: Values, facts: Facts) -> html.Element:
    row = about.get(head, {})
    score = row.get("pattern_score")
    pattern = row.get("pattern") or "no patch asks in it"
    depends = row.get("content_dependence")
    act = button("Unpin", tip="release the pinned head", gesture=UNPIN) if what == "pinned" else \
        pin_button(head, "Pin this one")
    return html.Div([
        html.Div([html.Span(what, className="hint"), act], className="card-head"),
        html.Div(_name(head, facts)),
        html.Div([head_picture(facts, head, kind, 6)
                  for kind in facts.model(head[0]).kinds], className="head-pictures",
                 title=READING),
        html.Div([html.B(pattern), "" if score is None else f", score {score:.2f}"]),
        html.Div("" if depends is None else f"content dependence {depends:.2f} nats",
                 className="hint", title="0: it looks the same way in every image; at most 0.69")])


def _between(two: tuple[HeadKey, HeadKey], about: Values, match: list[dict]) -> html.Element:
    """How alike the two patterns are, and whether the assignment pairs the two heads."""
    value = about.get(two[1], {}).get("similarity")
    if two[0] == two[1]:
        return html.Div("It is the opened head too: click another one in any chart.",
                        className="hint")
    if value is None:
        return html.Div("patterns cannot be compared", className="between hint")
    said = []
    if match:
        sure = bool(match[0]["matched"])
        word = "matched" if sure else "no match"
        said = [html.Div(word, className=f"verdict {word}",
                         title=f"p = {match[0]['p_value']:.2g}" if match[0]["p_value"] is not None
                         else "")]
    return html.Div([html.Div("similarity", className="hint"), html.B(f"{value:.2f}"), *said],
                    className="between", title="of their mean patterns: 1 equal, 0 unrelated")


def _table(title: str, columns: Sequence[Column], measured: dict[str, Values],
           two: tuple[HeadKey, HeadKey], facts: Facts) -> html.Element:
    heads = list(dict.fromkeys(two))
    lines = [_line(c, [measured.get(c.name, {}).get(head, {}) for head in heads]) for c in columns]
    marks = [html.Th(_name(head, facts, 12)) for head in heads]
    return html.Table([
        html.Thead(html.Tr([html.Th(title), *marks, html.Th("difference" * (len(heads) > 1))])),
        html.Tbody([line for line in lines if line is not None])], className="measures")


def _line(column: Column, found: list[dict]) -> html.Element | None:
    """A measure of one head, or of two and their difference; None where no head has it."""
    if not any(math.isfinite(_number(row.get("value"))) for row in found):
        return None
    unit = f" ({column.unit})" if column.unit else ""
    name: Any = html.Th([column.label, html.Span(unit, className="hint")], title=column.text)
    return html.Tr([name, *map(_cell, found), _difference(*found) if len(found) == 2 else None])


def _difference(one: dict, other: dict) -> html.Element:
    """What the measure is more in the other; bold where the intervals do not overlap."""
    value = _number(other.get("value")) - _number(one.get("value"))
    apart = _number(one.get("high")) < _number(other.get("low")) \
        or _number(other.get("high")) < _number(one.get("low"))
    return html.Td("–" if math.isnan(value) else f"{value:+.3g}",
                   className="apart" if apart else "")


def _cell(row: dict) -> html.Element:
    value, low, high = (_number(row.get(name)) for name in ("value", "low", "high"))
    if math.isnan(value):
        return html.Td("–", title="not defined")
    interval = "" if math.isnan(low) else f" [{low:.2g}, {high:.2g}]"
    return html.Td([f"{value:.3g}", html.Span(interval, className="hint")])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
