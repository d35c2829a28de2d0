"""D2 to D5: one head on one image, and the heads of other models that are like it."""

from __future__ import annotations

from collections.abc import Callable

from dashapp import crop, gallery, html, panels, theme
from dashapp.attention import Matrix, image_of, missing, picked
from dashapp.facts import Facts
from dashapp.figures import attention as figures
from dashapp.state import State
from dashapp.views.base import Drawn, Rows, View
from store import pattern_queries
from store.queries import Ask, Query

EMPTY = 130
"""Pixels of a chart that only says why it is empty."""

EACH = 5
"""How many heads of each model are shown beside one that they are like."""


def _ask_card(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"head": pattern_queries.head_card(state.opened)} if state.opened else {}


def _draw_card(rows: Rows, state: State, facts: Facts) -> Drawn:
    found = rows["head"].to_pylist()
    said = missing(state, facts) if image_of(state, facts) is None else ""
    return Drawn(panels.head_card(found, state, facts, image_of(state, facts)), said)


def _ask_attention(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    image = image_of(state, facts)
    return {} if image is None or state.opened is None else \
        {"attention": pattern_queries.attention(state.opened, image)}


def _ask_look(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    asked = _ask_attention(ask, state, facts)
    image = image_of(state, facts)
    return {**asked, "image": pattern_queries.image_size(image)} \
        if asked and image is not None else {}


def _over_matrix(draw: Callable[[Matrix, Rows, State, Facts], Drawn]
                 ) -> Callable[[Rows, State, Facts], Drawn]:
    """A view of the opened head's matrix; a sentence where it is not kept."""
    def drawn(rows: Rows, state: State, facts: Facts) -> Drawn:
        if state.opened is None or "attention" not in rows or not rows["attention"].num_rows:
            return Drawn(theme.empty(EMPTY, theme.wrapped(missing(state, facts), 44)), "")
        return draw(Matrix.of(rows["attention"], facts.block(state.opened)), rows, state, facts)
    return drawn


@_over_matrix
def _draw_look(matrix: Matrix, rows: Rows, state: State, facts: Facts) -> Drawn:
    assert state.opened is not None
    token, block = picked(state, matrix.block), matrix.block
    (image,) = rows["image"].to_pylist()
    preprocessing = facts.model(state.opened[0]).row["preprocessing"]
    box = crop.seen(preprocessing, image["width"], image["height"])
    figure = figures.look(matrix, token, state.looks, image["image"], box)
    way = "where it looks" if state.looks == "at" else "who looks at it"
    cropped = "" if box.whole else " Shown is what the model saw: the resized image's centre."
    alone = " In this block only the class token asks." if block.class_query else ""
    return Drawn(figure, f"Picked (blue): {block.token(token)}; orange: the {figures.TARGETS} "
                         f"strongest patches; right: {way}. Click a patch or token to pick it."
                         f"{cropped}{alone}")


@_over_matrix
def _draw_lines(matrix: Matrix, rows: Rows, state: State, facts: Facts) -> Drawn:
    low, high = matrix.drawn(state)
    token = picked(state, matrix.block)
    figure, count = figures.lines(matrix, low, high, token, state.looks)
    cut = f" The strongest {figures.MOST_LINES:,} are drawn." if count > figures.MOST_LINES else ""
    none = "" if count else " Brush D5 elsewhere, or double-click it."
    return Drawn(figure, f"{count:,} of {len(matrix.seen):,} links, of weights "
                         f"{_between(low, min(high, matrix.top))}.{cut}{none} Blue: to or from the "
                         "class or other prefix tokens; orange: between patches; bold: the picked "
                         "token's.")


def _between(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


@_over_matrix
def _draw_matrix(matrix: Matrix, rows: Rows, state: State, facts: Facts) -> Drawn:
    low, high = matrix.drawn(state)
    block = matrix.block
    figure = figures.matrix(matrix, low, high, picked(state, block), state.looks)
    wide = " Prefix rows and columns are widened." if block.prefix else ""
    unseen = " Grey ground: patches in different windows." if block.windowed else ""
    return Drawn(figure, f"Colour: links drawn in D3, by weight (√ scale); grey: the others.{wide}"
                         f"{unseen} Frame: the picked token. Click a row to pick its token.")


@_over_matrix
def _draw_weights(matrix: Matrix, rows: Rows, state: State, facts: Facts) -> Drawn:
    low, high = matrix.drawn(state)
    inside = int(((matrix.seen >= low) & (matrix.seen <= high)).sum())
    share = inside / max(1, len(matrix.seen))
    back = " Double-click for the largest again." if state.weights else ""
    return Drawn(figures.weights(matrix, low, high),
                 f"Drawn: {inside:,} of {len(matrix.seen):,} links ({share:.2%}), "
                 f"{_between(low, min(high, matrix.top))}. Drag to choose a range.{back}")


def _ask_alike(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"heads": pattern_queries.alike(ask, state.opened, EACH)} if state.opened else {}


def _draw_alike(rows: Rows, state: State, facts: Facts) -> Drawn:
    found = rows["heads"].to_pylist() if "heads" in rows else []
    if not found:
        return Drawn(html.P("No other head's pattern can be compared with this one's.",
                            className="hint"), "")
    return Drawn(gallery.alike(found, facts, state.kind),
                 "The heads of each model whose mean patterns are most similar (1 = equal). "
                 "matched: the assignment pairs the two, and they are more alike than chance; no "
                 "match: it pairs them, and they are not.")


_MATRIX = ("opened", "focus", "weights", "links")
_ZOOM = ("opened", "focus")

CARD = View(
    id="head", title="Head and image", brush="", form="panel", controls=(),
    help="The head that D2 to D5 are about: the one chosen last; click another one here.",
    reads=("models", "chosen", "opened", "focus", "pin"), ask=_ask_card, draw=_draw_card)

LOOK = View(
    id="look", title="D2  Where it looks", brush="token", controls=("looks",),
    help="The image as the model saw it, and how much weight the picked token gives or gets.",
    reads=("opened", "focus", "query", "looks"), ask=_ask_look, draw=_draw_look, zoom=_ZOOM)

LINES = View(
    id="lines", title="D3  Links", brush="token", controls=(),
    help="A line per strong link, from the patch that looks (above) to what it looks at (below).",
    reads=(*_MATRIX, "query", "looks"), ask=_ask_attention, draw=_draw_lines, zoom=_ZOOM)

ATTENTION = View(
    id="attention", title="D4  Attention matrix", brush="token", controls=(),
    help="Every query's weights over all keys.",
    reads=(*_MATRIX, "query", "looks"), ask=_ask_attention, draw=_draw_matrix, zoom=_ZOOM)

WEIGHTS = View(
    id="weights", title="D5  Weights", brush="weights", controls=("links",),
    help="How the weights are distributed; the brushed ones are drawn in D3 and coloured in D4.",
    reads=_MATRIX, ask=_ask_attention, draw=_draw_weights, zoom=_ZOOM)

ALIKE = View(
    id="alike", title="Heads like this one", brush="", form="panel", controls=(),
    help="The heads of every model on show whose mean patterns are most like this head's.",
    reads=("models", "opened", "kind"), ask=_ask_alike, draw=_draw_alike)
