"""E1 to E4: measures along the layers and against each other, two heads, two models' heads."""

from __future__ import annotations

from dashapp import pairs, pinned, theme
from dashapp.facts import Facts
from dashapp.figures import compare as figures
from dashapp.figures.heads import SIGNED
from dashapp.figures.pattern_map import Paint, paint
from dashapp.state import State
from dashapp.views.base import Drawn, Rows, View, heads_on_show, over_images, shown
from store import compare_queries as queries
from store.queries import Ask, Query
from store.schema import SUMMARISED, measure

EMPTY = 160
"""Pixels of a chart that only says why it is empty."""

def _ask_trends(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    asked = {"layers": queries.trend(ask, state.compared)}
    chosen = heads_on_show(state)
    return asked | ({"chosen": queries.values_of(ask, state.compared, chosen)} if chosen else {})


def _draw_trends(rows: Rows, state: State, facts: Facts) -> Drawn:
    models, column = shown(state, facts), measure(state.compared)
    figure = figures.trends(rows["layers"], models, column, state.band, state.along == "depth",
                            rows.get("chosen"))
    band = ("the middle half of the heads (interquartile range)" if state.band == "quartiles" else
            "from the least to the largest head")
    dots = " Outlined: the chosen heads." if "chosen" in rows else ""
    return Drawn(figure, f"Line: mean over a layer's heads, each its mean over "
                         f"{over_images(state)}; band: {band}.{dots}"
                         f"{_undefined(rows, state, facts)}")


def _undefined(rows: Rows, state: State, facts: Facts) -> str:
    """Which models on show have no value of the measure anywhere."""
    known = {r["model"] for r in rows["layers"].to_pylist() if r["heads"]}
    missing = [theme.plain(m) for m in state.models if m not in known]
    return f" Not defined for {', '.join(missing)}." if missing else ""


def _ask_against(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    names = {"x": state.across, "y": state.up}
    if state.shade in _MEASURES:
        names["shade"] = state.shade
    return {"heads": queries.against(ask, names)}


_MEASURES = {c.name for c in SUMMARISED}


def _draw_against(rows: Rows, state: State, facts: Facts) -> Drawn:
    models, axes = shown(state, facts), (measure(state.across), measure(state.up))
    figure = figures.against(rows["heads"], models, axes, _paint(rows["heads"], state, facts),
                             heads_on_show(state), {"opened": state.opened, "pinned": state.pin})
    rho = figures.correlations(rows["heads"])
    said = ", ".join(f"{theme.glyph(m.index)} {rho[m.name]:.2f}" for m in models
                     if m.name in rho and rho[m.name] == rho[m.name])
    rank = f" Spearman's ρ over each model's heads: {said}." if said else \
        " No model has both measures."
    return Drawn(figure, f"A dot per head: means over {over_images(state)}.{rank} Lasso or click "
                         "to choose heads; ring: the opened head, dotted: the pinned one.")


def _paint(rows, state: State, facts: Facts) -> Paint:
    if state.shade in _MEASURES:
        column = measure(state.shade)
        return Paint.numbered(rows["shade"].to_numpy().astype(float), column.title,
                              signed=column.range in SIGNED)
    return paint(rows, state.shade, shown(state, facts), True, measure(state.up), None, {})


def _ask_pinned(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    if state.pin is None or state.opened is None:
        return {}
    heads = (state.pin, state.opened)
    return {"measures": queries.measures_of(ask, heads), "heads": queries.patterns_of(heads),
            "match": queries.match_of(*heads)}


def _draw_pinned(rows: Rows, state: State, facts: Facts) -> Drawn:
    if "measures" not in rows:
        return Drawn(pinned.nothing(state, facts), "No head is pinned.")
    interval = ("mean ± 1.96 standard errors" if state.selection.images.clauses else
                "95 % bootstrap interval over images")
    return Drawn(pinned.panel(rows, state, facts),
                 f"Means over {over_images(state)}; in brackets: {interval}. Bold: the intervals "
                 "do not overlap. Choose or click a head anywhere to compare it with the pinned "
                 "one.")


def _ask_matched(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {} if state.paired is None else {
        "pairs": queries.matched(ask, state.paired, state.compared)}


def _draw_matched(rows: Rows, state: State, facts: Facts) -> Drawn:
    why = _no_pairs(rows, state)
    if why or state.paired is None:
        return Drawn(theme.empty(EMPTY, theme.wrapped(why, 44)), "")
    one, other = (facts.model(name) for name in state.paired)
    figure = figures.matched(rows["pairs"], (one, other), measure(state.compared),
                             heads_on_show(state))
    sure = sum(rows["pairs"]["matched"].fill_null(False).to_pylist())
    count = rows["pairs"].num_rows
    alone = max(one.layers * one.heads, other.layers * other.heads) - count
    left = f" {alone} heads of the larger model have no partner." if alone > 0 else ""
    return Drawn(figure, f"A dot per pair of heads that the assignment makes; green: {sure} of "
                         f"{count} that are more alike than chance, grey: the others. Means over "
                         f"{over_images(state)}; dashed: equal.{left}")


def _no_pairs(rows: Rows, state: State) -> str:
    """Why there is no pair of heads to show; empty where there is one."""
    if state.paired is None:
        return "Two models on show are needed: add one above."
    if not rows["pairs"].num_rows:
        return (f"No head of {state.paired[0]} is matched with one of {state.paired[1]} in this "
                "store: run headatlas precompute on it again.")
    known = rows["pairs"]["difference"].drop_null()
    return "" if len(known) else \
        f"{measure(state.compared).label} is not defined for both models."


def _draw_pairs(rows: Rows, state: State, facts: Facts) -> Drawn:
    listed = rows["pairs"].to_pylist() if "pairs" in rows else []
    why = _no_pairs(rows, state)
    shown_of = min(pairs.MOST, len(listed))
    said = why or (f"The {shown_of} of {len(listed)} pairs that differ most in "
                   f"{measure(state.compared).label}. Click: choose both heads.")
    return Drawn(pairs.panel(listed if not why else [], state, facts), said)


TRENDS = View(
    id="trends", title="E1  Along the layers", brush="", tab="compare",
    help="Any measure, layer by layer: where in the network models differ.",
    reads=("models", "selection", "compared", "along", "band"),
    controls=("compared", "along", "band"), ask=_ask_trends, draw=_draw_trends,
    zoom=("models", "compared", "along"))

AGAINST = View(
    id="against", title="E2  Two measures", brush="heads", tab="compare",
    help="All heads of all models on show, over any two measures, coloured by a third.",
    reads=("models", "selection", "across", "up", "shade", "opened", "pin"),
    controls=("across", "up", "shade"), ask=_ask_against, draw=_draw_against,
    zoom=("models", "across", "up"))

PINNED = View(
    id="pinned", title="E3  Two heads", brush="", form="panel", controls=(), tab="compare",
    help="The pinned head beside the opened one: the head chosen last.",
    reads=("models", "selection", "opened", "pin"), ask=_ask_pinned, draw=_draw_pinned)

MATCHED = View(
    id="matched", title="E4  Matched heads", brush="heads", controls=(), tab="compare",
    help="The measure of E1 in the heads of one model, over that in their partners in another.",
    reads=("models", "selection", "compared", "pair"), ask=_ask_matched, draw=_draw_matched,
    zoom=("models", "compared", "pair"))

PAIRS = View(
    id="pairs", title="E4  Matched heads, one by one", brush="", form="panel", controls=(),
    help="Pairs of matched heads, those that differ most in the measure of E1 first.",
    tab="compare", reads=("models", "selection", "compared", "pair"), ask=_ask_matched,
    draw=_draw_pairs)

