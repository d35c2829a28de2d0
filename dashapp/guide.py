"""What helps to find the way: the skip link, jump links, keys, and the `?` of a measure."""

from __future__ import annotations

from typing import Any

import dash_bootstrap_components as dbc
from dash import html

from dashapp.views import VIEWS
from store.partial_queries import TABLE
from store.schema import SUMMARISED, TABLES, Column

JUMPS = {"overview": "A  Images", "matrix": "B1  Importance", "partial": "B2, B3  Partial pruning",
         "layers": "C  Strength", "map": "D1  Patterns", "head": "D2–D5  One head",
         "alike": "Heads like it", "trends": "E1  Layers", "against": "E2  Two measures",
         "pinned": "E3  Two heads", "matched": "E4  Matched heads",
         "agreement": "E5, E6  Agreement", "curves": "E7  Pruning curves"}
"""The views that a link leads to."""

KEYS = {"1  2  3": "turn to the tab Heads, Compare or SQL",
        "Tab, Shift+Tab": "the next or the last button, choice or link; Enter or Space uses it",
        "← →": "the next choice in a row of choices",
        "Enter": "in B1's field “layer.head”: choose or release that head (3.5, or 3.5@model)",
        "Esc": "close what is open",
        "Ctrl+Enter": "in the SQL console: run the query",
        "?": "this list"}

EXPLAINED = ("importance", "strength", "left", "compared", "across", "up", "shade", "ranked",
             "pruned", "judged")
"""Controls that choose a measure, each with a `?` that gives its definition."""

_ELSEWHERE = {"left": TABLE, "judged": TABLES["pruning_curves"]}
"""Where the columns are that are no measure of a head."""


_MEASURES = {column.name: column for column in SUMMARISED}


def column(control: str, name: str) -> Column | None:
    """What a control's value stands for; None for one that is no measure, such as a colour."""
    table = _ELSEWHERE.get(control)
    return _MEASURES.get(name) if table is None else table.column(name)


def skip_link() -> html.A:
    return html.A("Skip to the charts", href="#charts", className="skip",
                  **_named(jump="charts"))


def jumps() -> html.Nav:
    """Links to the views of a tab; `assets/keys.js` answers them, and the URL stays as it is."""
    return html.Nav([
        html.A(JUMPS[view.id], href=f"#view-{view.id}", className=f"jump of-{view.tab}",
               **_named(jump=f"view-{view.id}"))
        for view in VIEWS if view.id in JUMPS], className="jumps", **_named("Views"))


def buttons() -> list:
    """Light or dark, and the list of keys."""
    return [html.Button(id="theme", className="small-button",
                        title="colours: as the system has them, light, or dark"),
            html.Button("?", id="show-keys", className="small-button", title="keys",
                        **_named("keys"))]


def keys() -> html.Dialog:
    return html.Dialog([
        html.H2("Keys"),
        html.Table(html.Tbody([html.Tr([html.Th(html.Kbd(key)), html.Td(text)])
                               for key, text in KEYS.items()])),
        html.P("Everything else is under the mouse: drag on a chart for a box or lasso, click a "
               "mark, double-click to clear.", className="hint"),
        html.Button("Close", className="small-button")], id="keys", className="keys-help",
        **_named("keys"))


def explain(control: str) -> html.Details:
    """A `?` that opens the definition of the measure that the control chooses."""
    return html.Details([html.Summary("?", title="what this measure is",
                                      **_named("what this measure is")),
                         html.Div(id=f"about-{control}", className="about")], className="explain")


def choose_head() -> list:
    """A head by its numbers, for those who cannot or do not want to click a cell."""
    tip = "choose a head: LAYER.HEAD of the first model on show, or LAYER.HEAD@MODEL, then Enter"
    return [html.Label([
        html.Span(tip, className="visually-hidden"),
        dbc.Input(id="choose-head", type="text", size="sm", placeholder="layer.head")],
        title=tip, className="choose-head")]


def _named(label: str = "", **data: str) -> dict[str, Any]:
    said = {"aria-label": label} if label else {}
    return said | {f"data-{name}": value for name, value in data.items()}
