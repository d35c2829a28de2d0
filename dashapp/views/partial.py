"""B2, B3: partial pruning, and what is predicted under it."""

from __future__ import annotations

from dashapp import html, predictions, theme
from dashapp.facts import Facts, Model
from dashapp.figures import partial as figures
from dashapp.figures.strength import SERIES, Series, series_of
from dashapp.state import State
from dashapp.views.base import Drawn, Rows, View, heads_on_show, shown
from store import partial_queries as queries
from store.queries import Ask, Query
from store.schema import measure
from store.selection import HeadKey

PANELS = 4
"""Heads whose predictions are side by side."""

EMPTY = 150
"""Pixels of a chart that only says why it is empty."""

MAKE = "headatlas precompute --partial N measures it on N images."


def _heads(ask: Ask, state: State, most: int) -> tuple[HeadKey, ...]:
    """The chosen heads, or of each model on show the one that matters most."""
    if chosen := heads_on_show(state):
        return chosen[:most]
    rows = queries.leaders(ask, state.importance, most).rows(ask.store).to_pylist()
    return tuple((r["model"], r["layer"], r["head"]) for r in rows)


def _focus(ask: Ask, state: State) -> int | None:
    """The focused image, if it has partial pruning."""
    if state.focus is None:
        return None
    return _measured(state, queries.measured(ask).rows(ask.store)["image"].to_pylist())


def _measured(state: State, images: list[int]) -> int | None:
    return state.focus if state.focus in images else None


def _ask_modes(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"modes": queries.by_mode(ask, state.left, _heads(ask, state, SERIES),
                                     _focus(ask, state)),
            "images": queries.measured(ask)}


def _ask_predictions(ask: Ask, state: State, facts: Facts) -> dict[str, Query]:
    return {"predictions": queries.predictions(ask, state.mode, _heads(ask, state, PANELS),
                                               _focus(ask, state)),
            "images": queries.measured(ask)}


def _draw_modes(rows: Rows, state: State, facts: Facts) -> Drawn:
    cells = {(r["model"], r["layer"], r["head"], r["mode"]): r for r in rows["modes"].to_pylist()}
    column = queries.TABLE.column(state.left)
    known = [key[:3] for key, cell in cells.items() if cell["value"] is not None]
    focus = _measured(state, rows["images"]["image"].to_pylist())
    absent = [_without_rows({key[0] for key in cells}, state, facts, focus),
              *_without_values(known, cells, state, facts)]
    if not known:
        return Drawn(theme.empty(EMPTY, theme.wrapped(_joined(absent), 60)), "")
    series = _series(known, state, facts)
    counts = [(cells[key]["images"], cells[key]["everything"]) for key in cells
              if key[:3] in known]
    return Drawn(figures.bars(cells, series, column, state.mode), _joined([
        _over(counts, state, focus, "Whiskers: ± 1.96 standard errors."),
        f"{column.label.capitalize()}: {column.text}. Dashed: the unpruned model.",
        _which(state, SERIES), *absent, _classless(series),
        "Click a bar or matrix to see its mode in B3."]))


def _draw_predictions(rows: Rows, state: State, facts: Facts) -> Drawn:
    found, images = rows["predictions"].to_pylist(), rows["images"].to_pylist()
    focus = _measured(state, [r["image"] for r in images])
    label = next((r["label"] for r in images if r["image"] == focus), None)
    series = _series([(r["model"], r["layer"], r["head"]) for r in found], state, facts)
    wanted = _wanted(state, facts)
    silent = [m.name for m in wanted if not m.has_classifier]
    absent = _without_rows({r["model"] for r in found} | set(silent), state, facts, focus)
    no_classes = f"{' and '.join(silent)}: no classifier, see the embedding change in B2." \
        if silent else ""
    if not found:
        return Drawn(html.P(_joined([_nothing_passes(images, wanted), no_classes, absent]),
                            className="hint"), "")
    panel = predictions.panel(found, series, state, [r["image"] for r in images], focus, label)
    counts = [(r["images"], len(images)) for r in found]
    bound = "" if all(r["listed"] == r["images"] for r in found) else (
        f"A list holds {queries.TOP} classes; a class counts as 0 for an image that does not list "
        "it, so that its mean is a lower bound (≥).")
    tick = "" if state.mode == "none" else "Tick: with nothing set to 0."
    right = "" if label is None else f"Bold: its label, {label}."
    return Drawn(panel, _joined([
        _over(counts, state, focus, f"The {queries.TOP} classes with the largest mean."), right,
        tick, bound, _first(state, PANELS), no_classes, absent]))


def _joined(sentences: list[str]) -> str:
    return " ".join(s for s in sentences if s)


def _series(keys: list[tuple], state: State, facts: Facts) -> list[Series]:
    """The heads that have rows, in the order in which they were chosen."""
    there = list(dict.fromkeys(keys))
    order = [h for h in heads_on_show(state) if h in there] or there
    return series_of(shown(state, facts), tuple(order)) if order else []


def _wanted(state: State, facts: Facts) -> list[Model]:
    """The models of the chosen heads, or all on show."""
    chosen = {h[0] for h in heads_on_show(state)}
    return [m for m in shown(state, facts) if not chosen or m.name in chosen]


def _over(counts: list[tuple[int, int]], state: State, focus: int | None, how: str) -> str:
    if focus is not None:
        return f"Image {focus}."
    kept, there = max(n for n, _ in counts), max(n for _, n in counts)
    of = f"{kept:,} of the {there:,} images with partial pruning, those that pass the filters" \
        if state.selection.images.clauses else f"the {there:,} images with partial pruning"
    not_it = "" if state.focus is None else f"Image {state.focus} has no partial pruning. "
    return f"{not_it}Mean over {of}. {how}"


def _which(state: State, most: int) -> str:
    if heads_on_show(state):
        return _first(state, most)
    by = measure(state.importance).label
    return f"Of each model the head that matters most ({by}, all images)."


def _first(state: State, most: int) -> str:
    count = len(heads_on_show(state))
    return f"The first {most} of {count} chosen heads." if count > most else ""


def _without_rows(there: set[str], state: State, facts: Facts, focus: int | None) -> str:
    names = [m.name for m in _wanted(state, facts) if m.name not in there]
    if not names:
        return ""
    where = "in this store" if focus is None else f"for image {focus}"
    return f"No partial pruning of {', '.join(names)} {where}: {MAKE}"


def _without_values(known: list[tuple], cells: dict, state: State, facts: Facts) -> list[str]:
    """Why a model that has rows has no bars."""
    models = {key[0] for key in cells} - {key[0] for key in known}
    empty = {key[0] for key, cell in cells.items() if not cell["images"]}
    silent = [m.name for m in shown(state, facts) if m.name in models - empty]
    said = ["No image with partial pruning passes the filters."] if models & empty else []
    return said + [f"{name} has no classifier: choose the embedding change." for name in silent]


def _nothing_passes(images: list[dict], wanted: list[Model]) -> str:
    there = images and any(m.has_classifier for m in wanted)
    return "No image with partial pruning passes the filters." if there else ""


def _classless(series: list[Series]) -> str:
    names = list(dict.fromkeys(one.model.name for one in series
                               if not one.model.row["class_token"]))
    return f"No class token in {', '.join(names)}: its modes stay empty." if names else ""


MODES = View(
    id="partial", title="B2  Partial pruning",
    help="What is left when parts of a head's attention matrix are set to 0 after the softmax.",
    brush="mode", reads=("models", "selection", "focus", "importance", "left", "mode"),
    controls=("left",), ask=_ask_modes, draw=_draw_modes, zoom=("left",))

PREDICTIONS = View(
    id="predictions", title="B3  Predictions", form="panel", brush="",
    help="The five most probable classes with nothing set to 0, and under the chosen mode of B2.",
    reads=("models", "selection", "focus", "importance", "mode"),
    controls=("mode",), ask=_ask_predictions, draw=_draw_predictions)
