"""A: Image Overview."""

from __future__ import annotations

from dashapp.facts import Facts
from dashapp.figures import overview as figures
from dashapp.state import COLOURS, State
from dashapp.views.base import Drawn, Rows, View, heads_on_show, shown
from store import queries
from store.queries import Ask, Query
from store.schema import measure

MOST_LABELS = 10


def _ask(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"images": queries.overview(
        ask, state.importance if state.colour == "effect" else None)}


def _draw(rows: Rows, state: State, facts: Facts) -> Drawn:
    table = rows["images"]
    figure = figures.draw(
        table, shown(state, facts), _colour(state, facts), regions=state.selection.regions,
        focus=state.focus, thumbnails=state.marks == "thumbnails")
    return Drawn(figure, _caption(state, facts))


def _colour(state: State, facts: Facts) -> figures.Colour:
    column = measure(state.importance)
    title = {"effect": column.title}.get(state.colour, COLOURS[state.colour])
    return figures.Colour(state.colour, title, tuple(_labels(facts)),
                          diverging=state.colour == "effect")


def _labels(facts: Facts) -> list[str]:
    """The labels that get a colour; the rest share the last one."""
    names = [name for name, _ in facts.labels]
    if len(names) <= MOST_LABELS:
        return names
    largest = sorted(facts.labels, key=lambda x: -x[1])[:MOST_LABELS - 1]
    return [*sorted(name for name, _ in largest), f"other ({len(names) - MOST_LABELS + 1})"]


def _caption(state: State, facts: Facts) -> str:
    text = "t-SNE of each model's embeddings (no axis has a unit). Lasso or box to filter, " \
           "double-click to clear, click a dot to focus it."
    if state.colour == "effect":
        chosen = heads_on_show(state)
        of = f"the {len(chosen)} chosen head{'s' * (len(chosen) != 1)}" if chosen else "all heads"
        text += f" Colour: mean {measure(state.importance).label} over {of}, per image."
    if state.colour == "agreement":
        text += " Colour: share of the models on show that predict the commonest class."
    if state.marks == "thumbnails" and facts.images > figures.THUMBNAILS:
        text += (f" {figures.THUMBNAILS} of {facts.images:,} images are drawn as thumbnails, "
                 "those that pass first; dots show the colours.")
    return text


VIEW = View(
    id="overview", title="A  Image overview",
    help="One dot per image and model. A lasso in any of them filters the images of every view.",
    brush="images",
    reads=("models", "passes", "focus", "colour", "marks", "effect"),
    controls=("colour", "marks"), ask=_ask, draw=_draw)
