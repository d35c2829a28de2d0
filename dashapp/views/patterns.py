"""D1: the map of head patterns of all models, its clusters, and how good the space is."""

from __future__ import annotations

from dash import html

from dashapp import panels, pictures, theme
from dashapp.evidence import table as evidence_table
from dashapp.facts import Facts
from dashapp.figures import pattern_map as figures
from dashapp.figures.heads import Values
from dashapp.gallery import prototypes
from dashapp.state import State
from dashapp.views.base import Drawn, Rows, View, heads_on_show, shown
from store import pattern_queries, queries
from store.pattern_queries import MOST_FILTERED
from store.queries import Ask, Query
from store.schema import measure

EMPTY = 160
"""Pixels of a map that only says why it is empty."""

MOST_POINTS = 6000
"""Dots of the scatter plot."""

NOT_FITTED = ("This store has no pattern space yet: run headatlas precompute on it again, and it "
              "will be fitted.")


def _ask_map(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    kind, space = state.kind, state.space
    asked = {
        "heads": pattern_queries.places(ask, kind, space, state.focus),
        "cloud": pattern_queries.sample(ask, kind, space, MOST_POINTS)
        if state.cloud == "scatter" else pattern_queries.cloud(ask, kind, space),
        "clusters": pattern_queries.clusters(ask, kind, space)}
    if state.paint == "importance":
        asked["importance"] = queries.head_values(ask, state.importance)
    return asked


def _draw_map(rows: Rows, state: State, facts: Facts) -> Drawn:
    models, heads = shown(state, facts), rows["heads"]
    without = _without(state, facts)
    if not heads.num_rows:
        return Drawn(theme.empty(EMPTY, theme.wrapped(_nothing(state, facts), 60)), "")
    clusters = _merged(rows["clusters"].select(["cluster", "name", "heads", *"xy"]).to_pylist())
    colours = figures.paint(
        heads, state.paint, models, state.axis == "depth", measure(state.importance),
        Values(rows["importance"]) if "importance" in rows else None,
        {c["cluster"]: c["name"] for c in clusters})
    figure = figures.draw(heads, models, colours, heads_on_show(state), state.opened, state.kind,
                          state.focus)
    behind = figures.add_points if state.cloud == "scatter" else figures.add_density
    behind(figure, rows["cloud"], bool(state.selection.clauses))
    figures.add_names(figure, [(c["name"], c["x"], c["y"]) for c in clusters
                               if c["name"] != pattern_queries.NO_NAME])
    return Drawn(figure, _caption(state, without, facts.images))


def _merged(rows: list[dict]) -> list[dict]:
    """The clusters, largest first, with the centre of their heads of all models on show."""
    found: dict[int, list[dict]] = {}
    for row in rows:
        found.setdefault(row["cluster"], []).append(row)
    merged = []
    for cluster, parts in found.items():
        heads = sum(p["heads"] for p in parts)
        centre = {a: sum(p[a] * p["heads"] for p in parts) / heads for a in "xy"}
        merged.append({"cluster": cluster, "name": parts[0]["name"], "heads": heads, **centre})
    return sorted(merged, key=lambda c: (-c["heads"], c["cluster"]))


def _without(state: State, facts: Facts) -> str:
    """Which models on show have no pattern of this kind, and why."""
    said = []
    for model in shown(state, facts):
        if state.kind not in model.placed:
            why = "has no class token, so no class patterns" if state.kind == "class" \
                and not model.row["class_token"] else "is not in the pattern space yet"
            said.append(f"{model.name} {why}.")
    return " ".join(said)


def _nothing(state: State, facts: Facts) -> str:
    """Why there is nothing at all to show."""
    return _without(state, facts) if _fitted(facts) else NOT_FITTED


def _fitted(facts: Facts) -> bool:
    return any(model.placed for model in facts.models)


def _caption(state: State, without: str, images: int) -> str:
    dots = "mean pattern over images" if state.focus is None else f"pattern on image {state.focus}"
    cloud = (f"up to {MOST_POINTS:,} single heads on single images"
             if state.cloud == "scatter" else "density of all heads × images")
    some = f", on at most {MOST_FILTERED:,} of the images" if images > MOST_FILTERED else ""
    passing = (" (darker: what passes the filters)" if state.cloud == "scatter" else
               f" (dotted: what passes the filters{some})") if state.selection.clauses else ""
    return (f"A dot per head: its {dots}; near means alike (no axis has a unit). Grey: {cloud}"
            f"{passing}. Lasso or click to choose heads; ring: the head below. {without}").strip()


def _ask_prototypes(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"clusters": pattern_queries.clusters(ask, state.kind, state.space)}


def _draw_prototypes(rows: Rows, state: State, facts: Facts) -> Drawn:
    found = rows["clusters"].to_pylist()
    if not found:
        return Drawn(html.P(_nothing(state, facts), className="hint"), "")
    ring = pictures.READING if state.kind == "patch" else pictures.READING.split(";")[0] + "."
    what = "mean offset from a patch to those it looks at" if state.kind == "patch" else \
        "where in the image the class token looks"
    return Drawn(prototypes(found, state.kind, facts, bool(heads_on_show(state))),
                 f"The mean of each cluster's heads, as the autoencoder decodes it: {what}. {ring} "
                 "Click: choose its heads.")


def _ask_evidence(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"evidence": pattern_queries.evidence(state.kind),
            "fits": pattern_queries.fits(ask, state.kind)}


def _draw_evidence(rows: Rows, state: State, facts: Facts) -> Drawn:
    found = rows["evidence"].to_pylist()
    if not found:
        return Drawn(html.P("Nothing was tested: that takes more images or models."
                            if _fitted(facts) else NOT_FITTED, className="hint"), "")
    placed = {m.name for m in facts.models if state.kind in m.placed}
    return Drawn(evidence_table(found), _fitted_on([
        row for row in rows["fits"].to_pylist() if row["model"] in placed]))


def _fitted_on(fits: list[dict]) -> str:
    if not fits:
        return ""
    one = fits[0]
    others = [r["model"] for r in fits if not r["fitted"]]
    late = f" {panels.listed(tuple(others))} came later, placed in it as it is." if others else ""
    return (f"Fitted on {one['patterns']:,} patterns in {one['epochs']} epochs, "
            f"{one['latent']} numbers a pattern.{late}")


MAP = View(
    id="map", title="D1  Head patterns",
    help="All heads of all models in one space: heads that look alike lie together.",
    brush="heads",
    reads=("models", "selection", "focus", "kind", "space", "cloud", "paint", "importance", "axis",
           "opened"),
    controls=("kind", "space", "cloud", "paint"), ask=_ask_map, draw=_draw_map,
    zoom=("models", "kind", "space"))

PROTOTYPES = View(
    id="prototypes", title="D1  Clusters of patterns",
    help="One tile per cluster of heads: what its centre looks like.",
    brush="", reads=("models", "chosen", "kind", "space"), controls=(),
    ask=_ask_prototypes, draw=_draw_prototypes, form="panel")

EVIDENCE = View(
    id="evidence", title="D1  How good is the space?",
    help="The autoencoder beside principal components of the same size and the mean pattern.",
    brush="", reads=("models", "kind"), controls=(),
    ask=_ask_evidence, draw=_draw_evidence, form="panel")
