"""C1, C2, C3: Attention Strength."""

from __future__ import annotations

from dashapp.facts import Facts
from dashapp.figures import strength as figures
from dashapp.figures.heads import Values
from dashapp.state import State
from dashapp.views.base import Drawn, Rows, View, heads_on_show, over_images, shown
from store import queries
from store.queries import Ask, Query
from store.schema import measure


def _ask_layers(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"heads": queries.head_values(ask, state.strength)}


def _draw_layers(rows: Rows, state: State, facts: Facts) -> Drawn:
    column = measure(state.strength)
    figure = figures.layers(Values(rows["heads"]), shown(state, facts), column,
                            heads_on_show(state), state.axis == "depth")
    missing = queries.undefined_models(rows["heads"])
    note = f" Not defined for {', '.join(missing)}." if missing else ""
    if column.name == "hop_entropy":
        note += " Dashed: the maximum, ln K for K hops."
    return Drawn(figure, f"A dot per head: mean over {over_images(state)}. Lasso or click to "
                         f"choose heads.{note}")


def _overlaid(state: State) -> tuple:
    return heads_on_show(state)[:figures.SERIES]


def _more(state: State) -> str:
    heads = len(heads_on_show(state))
    return f" The first {figures.SERIES} of {heads} chosen heads." if heads > figures.SERIES else ""


def _ask_hops(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"profiles": queries.profiles(ask, _overlaid(state), state.focus)}


def _draw_hops(rows: Rows, state: State, facts: Facts) -> Drawn:
    heads = _overlaid(state)
    series = figures.series_of(shown(state, facts), heads)
    figure = figures.hops(rows["profiles"], series, state.hops == "side", bool(heads))
    focus = "" if state.focus is None else f" Dotted: image {state.focus}."
    of = "" if heads else "each model's heads and "
    what = f"Mean over {of}{over_images(state)}; band: interquartile range over images."
    return Drawn(figure, what + focus + _more(state))


def _ask_distribution(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    heads = _overlaid(state)
    asked = {"histogram": queries.histogram(ask, state.strength, heads)}
    if state.focus is not None:
        asked["focus"] = queries.at_image(ask, state.strength, heads, state.focus)
    return asked


def _draw_distribution(rows: Rows, state: State, facts: Facts) -> Drawn:
    heads = _overlaid(state)
    focus = {(r["model"], r["layer"], r["head"]): r["value"]
             for r in rows["focus"].to_pylist()} if "focus" in rows else {}
    focus = {k: v for k, v in focus.items() if v is not None}
    filtered = bool(state.selection.images.clauses)
    figure = figures.distribution(
        rows["histogram"], figures.series_of(shown(state, facts), heads), measure(state.strength),
        focus, filtered, bool(heads))
    of = "the chosen heads" if heads else "all heads of each model"
    line = "" if state.focus is None else f" Vertical line: image {state.focus}."
    grey = " Grey: all images." if filtered else ""
    return Drawn(figure, f"{of.capitalize()} over {over_images(state)}.{grey}{line}{_more(state)}")


LAYERS = View(
    id="layers", title="C1  Strength by layer",
    help="One dot per head. With hop entropy, high heads look evenly near and far.",
    brush="heads", reads=("models", "selection", "strength", "axis"),
    controls=("strength",), ask=_ask_layers, draw=_draw_layers)

HOPS = View(
    id="hops", title="C2  Strength by hop",
    help="How much weight a patch gives to patches k steps away (Chebyshev distance).",
    brush="", reads=("models", "selection", "focus", "hops"),
    controls=("hops",), ask=_ask_hops, draw=_draw_hops)

DISTRIBUTION = View(
    id="distribution", title="C3  Strength over images",
    help="How the measure of C1 is distributed over images.",
    brush="", reads=("models", "selection", "focus", "strength"),
    controls=(), ask=_ask_distribution, draw=_draw_distribution)
