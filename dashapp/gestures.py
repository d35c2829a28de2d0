"""What a hand did on the page, applied to a state. A gesture is a small dict from the browser."""

from __future__ import annotations

import math
from dataclasses import replace

from dashapp.facts import Facts
from dashapp.state import CHOICES, State
from store.polygon import simplify
from store.selection import HeadKey, Heads, Labels, Outcome, Region, Selection


def apply(state: State, gesture: dict, facts: Facts) -> State:
    """The state after the gesture; the same state if the gesture makes no sense here."""
    kind = gesture.get("kind")
    if kind == "region":
        return _region(state, gesture, facts)
    if kind == "heads":
        return _heads(state, gesture, facts)
    if kind == "focus":
        return _focus(state, gesture.get("image"), facts)
    if kind == "drop":
        return _drop(state, str(gesture.get("source")))
    return state


def control(state: State, name: str, value: object) -> State:
    """The state after a control of the page was set."""
    if name == "labels":
        chosen = value if isinstance(value, list) else []
        return replace(state, selection=state.selection.with_(Labels(tuple(chosen))))
    if name == "outcome":
        outcome = Outcome("" if value in (None, "all") else str(value))
        return replace(state, selection=state.selection.with_(outcome))
    if name == "models":
        return replace(state, models=tuple(value) if isinstance(value, list) else ())
    if name in CHOICES and value in CHOICES[name]:
        return replace(state, **{name: str(value)})  # type: ignore[arg-type]
    return state


def values(state: State) -> dict[str, object]:
    """What each control shows for a state."""
    return {"models": list(state.models), "labels": list(state.selection.labels),
            "outcome": state.selection.outcome or "all", "importance": state.importance,
            "strength": state.strength, "colour": state.colour, "axis": state.axis,
            "marks": state.marks, "hops": state.hops}


CONTROLS = tuple(values(State()))


def _region(state: State, gesture: dict, facts: Facts) -> State:
    model, points = gesture.get("model"), gesture.get("points") or []
    if model is None:
        selection = state.selection
        for region in selection.regions:
            selection = selection.without(region.source)
        return replace(state, selection=selection)
    pairs = [(float(x), float(y)) for x, y in points if _finite(x) and _finite(y)]
    corners = simplify(pairs) if len(pairs) >= 3 else ()
    if model not in facts.names or len(corners) < 3:
        return state
    return replace(state, selection=state.selection.with_(Region(model, corners)))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _heads(state: State, gesture: dict, facts: Facts) -> State:
    keys = dict.fromkeys(_key(h) for h in gesture.get("heads") or [])
    sent = tuple(key for key in keys if facts.has_head(key))
    before = state.selection.heads
    if gesture.get("op") == "toggle":
        sent = (tuple(h for h in before if h not in sent)
                + tuple(h for h in sent if h not in before))
    return replace(state, selection=state.selection.with_(Heads(sent)))


def _key(sent: list) -> HeadKey:
    model, layer, head = sent
    return str(model), int(layer), int(head)


def _focus(state: State, image: object, facts: Facts) -> State:
    if not isinstance(image, int) or not 0 <= image < facts.images:
        return replace(state, focus=None) if image is None else state
    return replace(state, focus=None if image == state.focus else image)


def _drop(state: State, source: str) -> State:
    if source == "*":
        return replace(state, selection=Selection())
    if source == "focus":
        return replace(state, focus=None)
    return replace(state, selection=state.selection.without(source))
