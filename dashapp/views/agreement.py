"""E5 to E7: do measures and ablations agree on which heads matter, and is the order any good?"""

from __future__ import annotations

import numpy as np

from dashapp import panels, theme
from dashapp.facts import Facts, Model
from dashapp.figures import agreement as figures
from dashapp.state import COEFFICIENTS, State
from dashapp.views.base import Drawn, Rows, View, shown
from store import compare_queries as queries
from store.queries import Ask, Query
from store.schema import ABLATIONS, IMPORTANCE, TABLES, measure

EMPTY = 160
"""Pixels of a chart that only says why it is empty."""

WORDS = {name: name.replace("_", " ") for name in ABLATIONS}


def _ask_measures(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"agreement": queries.measures_agree(ask)}


def _draw_measures(rows: Rows, state: State, facts: Facts) -> Drawn:
    labels = {c.name: c.label for c in IMPORTANCE}
    figure, without = _square(rows, labels, "importance measure", state, facts)
    if figure is None:
        return Drawn(theme.empty(EMPTY, theme.wrapped(
            "This store has no agreement of measures for these models: run headatlas precompute on "
            "it again.", 50)), "")
    return Drawn(figure, f"{COEFFICIENTS[state.coefficient]} of the orders in which two measures "
                         f"put a model's heads, after zero ablation, over all images "
                         f"(filters do not change it){_over(state)}. Diagonal: agreement of a "
                         f"measure with itself on resampled images.{without}")


def _over(state: State) -> str:
    return "" if state.over == "each" or len(state.models) < 2 else \
        "; mean of the models on show that have both"


def _square(rows: Rows, labels: dict[str, str], title: str, state: State, facts: Facts):
    """The figure of what agrees, and which models on show are not in it; None without any."""
    table, models = rows["agreement"], shown(state, facts)
    there = {*table["one"].to_pylist(), *table["other"].to_pylist()}
    names = [name for name in labels if name in there]
    found = figures.squares(table, names, state.coefficient)
    having = [m for m in models if m.name in found and _says(found[m.name])]
    if len(names) < 2 or not having:
        return None, ""
    texts = [labels[name] for name in names]
    word = COEFFICIENTS[state.coefficient]
    figure = figures.matrices(found, having, texts, word) \
        if state.over == "each" and len(having) > 1 else figures.matrix(
            *figures.mean({m.name: found[m.name] for m in having}), texts, title, word)
    return figure, _without(models, having)


def _says(square: np.ndarray) -> bool:
    """Whether it compares any two different things."""
    return bool(np.isfinite(square[~np.eye(len(square), dtype=bool)]).any())


def _without(models: list[Model], having: list[Model]) -> str:
    missing = tuple(m.name for m in models if m not in having)
    return f" Without {panels.listed(missing)}." if missing else ""


def _ask_ablations(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"agreement": queries.ablations_agree(ask, state.ranked)}


def _draw_ablations(rows: Rows, state: State, facts: Facts) -> Drawn:
    figure, without = _square(rows, WORDS, "ablation", state, facts)
    column = measure(state.ranked)
    if figure is None:
        return Drawn(theme.empty(EMPTY, theme.wrapped(
            f"No model on show has {column.label} under more than one ablation: choose another "
            "measure, or run headatlas precompute with --ablation on this store.", 44)), "")
    images = _range([r["images"] for r in rows["agreement"].to_pylist()
                     if r["one"] != r["other"] and r["images"]])
    return Drawn(figure, f"{COEFFICIENTS[state.coefficient]} of the orders by {column.label} under "
                         f"two ablations, over the {images} images that have both (filters do not "
                         f"change it){_over(state)}.{without}")


def _ask_curves(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"curves": queries.curves(ask, state.pruned, state.judged),
            "areas": queries.areas(ask, state.pruned, state.judged)}


def _draw_curves(rows: Rows, state: State, facts: Facts) -> Drawn:
    models, table = shown(state, facts), rows["curves"]
    column = TABLES["pruning_curves"].column(state.judged)
    known = table.filter(table["value"].is_valid())
    having = [m for m in models if m.name in set(known["model"].to_pylist())]
    if not having:
        return Drawn(theme.empty(EMPTY, theme.wrapped(_no_curves(table, state), 44)), "")
    figure = figures.curves(known, having, column, _beats(rows["areas"].to_pylist()))
    images = _range(known["images"].to_pylist())
    passing = " that pass the filters" if state.selection.images.clauses else ""
    return Drawn(figure, "Heads set to 0 one after the other, by "
                         f"{measure(state.pruned).label}: least important first (solid), most "
                         "important first (dashed), in random orders (grey: mean and range). Over "
                         f"{images} judging images{passing}; the order comes from other images. "
                         "Beats: the share of random orders that an order beats, by the area under "
                         "its curve over all judging images: least first by harming the model "
                         f"less, most first by harming it more.{_without(models, having)}")


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _no_curves(table, state: State) -> str:
    """Why there is no curve."""
    column = TABLES["pruning_curves"].column(state.judged)
    if table.num_rows:
        return (f"{column.label.capitalize()} is not defined for the models on show: choose "
                "embedding change, which needs no classifier and no labels.")
    if state.selection.images.clauses:
        return "No judging image of the models on show passes the filters."
    return ("This store has no pruning curves of the models on show. Run headatlas precompute with "
            "--curves on it.")


def _beats(rows: list[dict]) -> dict[str, str]:
    """model -> how many random orders its orders beat, in words."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row["beats"] is not None:
            said.setdefault(row["model"], []).append(
                f"{row['path'].replace('_', ' ')} {row['beats']:.0%}")
    return {model: "beats: " + ", ".join(parts) for model, parts in said.items()}


AGREEMENT = View(
    id="agreement", title="E5  Do measures agree?", brush="", tab="compare",
    help="Rank correlation of every two importance measures over a model's heads.",
    reads=("models", "coefficient", "over"), controls=("coefficient", "over"),
    ask=_ask_measures, draw=_draw_measures, zoom=("models", "over"))

ABLATED = View(
    id="ablated", title="E6  Do ablations agree?", brush="", tab="compare",
    help="Rank correlation of every two ablations over a model's heads, for one measure.",
    reads=("models", "coefficient", "over", "ranked"), controls=("ranked",),
    ask=_ask_ablations, draw=_draw_ablations, zoom=("models", "over"))

CURVES = View(
    id="curves", title="E7  Pruning curves", brush="", tab="compare",
    help="What is left of a model as its heads go: a good order beats random ones.",
    reads=("models", "selection", "pruned", "judged"), controls=("pruned", "judged"),
    ask=_ask_curves, draw=_draw_curves, zoom=("models", "judged"))
