"""B1: Head Importance, as layers x heads matrices and as a line with the unpruned baseline."""

from __future__ import annotations

import pyarrow as pa

from dashapp import theme
from dashapp.facts import Facts, Model
from dashapp.figures import heads as figures
from dashapp.state import State
from dashapp.views.base import Drawn, Rows, View, heads_on_show, interval_note, over_images, shown
from store import queries
from store.queries import Ask, Query
from store.schema import CLEAN_PASS, measure
from store.selection import Selection


def _ask_matrix(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"heads": queries.head_values(ask, state.importance)}


def _ask_line(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    asked = {"heads": queries.head_values(ask, state.importance),
             "baselines": queries.baselines(ask)}
    if state.selection.images.clauses:
        everything = Ask(ask.store, ask.models, Selection())
        asked["all images"] = queries.head_values(everything, state.importance)
    return asked


def _draw_matrix(rows: Rows, state: State, facts: Facts) -> Drawn:
    models, column = shown(state, facts), measure(state.importance)
    values = figures.Values(rows["heads"])
    why = why_undefined(values, models, state)
    figure = figures.matrix(values, models, column, heads_on_show(state),
                            {name: theme.wrapped(text, 22) for name, text in why.items()})
    how = ("in the clean pass; nothing is pruned" if state.importance in CLEAN_PASS
           else "after zeroing one head at a time")
    return Drawn(figure, f"Mean over {over_images(state)} {how}. Click a cell to choose or "
                         "release a head.")


def _draw_line(rows: Rows, state: State, facts: Facts) -> Drawn:
    models, column = shown(state, facts), measure(state.importance)
    values = figures.Values(rows["heads"])
    why = why_undefined(values, models, state)
    before = figures.Values(rows["all images"]) if "all images" in rows else None
    defined = [m for m in models if m.name not in why]
    figure = figures.line(values, models, column, heads_on_show(state),
                          _baseline(rows["baselines"], defined, state.importance),
                          state.axis == "depth", before)
    grey = " Grey: over all images." if before else ""
    missing = " " + " ".join(f"{text}." for text in why.values()) if why else ""
    dashed = "" if state.importance in CLEAN_PASS else "Dashed: the unpruned model. "
    return Drawn(figure, f"{dashed}{interval_note(state)}.{grey} Click or drag a box to choose "
                         f"heads.{missing}")


def _baseline(rows: pa.Table, models: list[Model], name: str) -> dict[str, float]:
    if name in CLEAN_PASS:
        return {}
    if name != "probability":
        return {m.name: 0.0 for m in models}
    return {r["model"]: r["probability"] for r in rows.to_pylist()
            if r["probability"] is not None}


def why_undefined(values: figures.Values, models: list[Model], state: State) -> dict[str, str]:
    """A sentence for each model whose measure is NULL everywhere."""
    return {m.name: _reason(m, state) for m in values.undefined(models)}


def _reason(model: Model, state: State) -> str:
    if state.selection.images.clauses and model.has_classifier:
        return f"{model.name}: no value, no image with one passes the filters"
    if not model.has_classifier:
        return f"{model.name} has no classifier: choose an embedding measure"
    return f"{model.name}: {measure(state.importance).label} is not defined"


MATRIX = View(
    id="matrix", title="B1  Head importance",
    help="One cell per head: what pruning it costs. Darker is more important.",
    brush="heads", reads=("models", "selection", "importance"),
    controls=("importance", "choose"), ask=_ask_matrix, draw=_draw_matrix)

LINE = View(
    id="line", title="B1  Head importance, layer by layer",
    help="The same numbers along the network, with the unpruned model at 0 and as a dashed line.",
    brush="heads", reads=("models", "selection", "importance", "axis"),
    controls=("axis",), ask=_ask_line, draw=_draw_line)
