"""What a hand did on the page, applied to a state. A gesture is a small dict from the browser."""

from __future__ import annotations

import math
from dataclasses import replace

from dashapp.facts import Facts
from dashapp.state import CHOICES, LONGEST_SQL, State
from store.polygon import simplify
from store.selection import HeadKey, Heads, Labels, Outcome, Region, Selection


def apply(state: State, gesture: dict, facts: Facts) -> State:
    """The state after the gesture; the same state if the gesture makes no sense here."""
    do = GESTURES.get(str(gesture.get("kind")))
    return do(state, gesture, facts) if do else state


def catch_up(state: State, acts: list[dict], controls: dict[str, object], told: dict, facts: Facts
             ) -> tuple[State, Exception | None]:
    """The state after all that a page has done since it was `told` something, and why an act of it
    could not be done. Such an act is left out: it would stand in the way of all that follow.

    `acts`: gestures with a running number `n`. `controls`: what each shows.
    """
    failed = None
    for act in acts:
        if act["n"] > told.get("n", 0):
            try:
                state = apply(state, act, facts)
            except Exception as error:
                failed = error
    for name, value in controls.items():
        if value != told.get("shown", {}).get(name, value):
            state = control(state, name, value)
    return state, failed


def told(acts: list[dict], state: State) -> dict:
    """What a page is told with a state: the newest act in it, and what its controls show."""
    return {"n": max((act["n"] for act in acts), default=0), "shown": values(state)}


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
        brushed = None if name == "links" else state.weights
        return replace(state, weights=brushed, **{name: str(value)})  # type: ignore[arg-type]
    return state


def fitting(state: State, facts: Facts) -> State:
    """Without a picked token that the head on the head page does not have."""
    head = state.opened
    if state.query is None or (head is not None and state.query < facts.block(head).tokens):
        return state
    return replace(state, query=None)


def values(state: State) -> dict[str, object]:
    """What each control shows for a state."""
    return {"models": list(state.models), "labels": list(state.selection.labels),
            "outcome": state.selection.outcome or "all",
            **{name: getattr(state, name) for name in CHOICES}}


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
    """Choose heads; the head page turns to the one chosen last."""
    sent = _sent(gesture, facts)
    before = state.selection.heads
    if gesture.get("op") == "toggle":
        sent = (tuple(h for h in before if h not in sent)
                + tuple(h for h in sent if h not in before))
    return replace(state, selection=state.selection.with_(Heads(sent)), head=None, weights=None)


def _open(state: State, gesture: dict, facts: Facts) -> State:
    """Turn the head page to one head, and choose it beside the others."""
    sent = _sent(gesture, facts)[:1]
    if not sent:
        return state
    others = tuple(h for h in state.selection.heads if h not in sent)
    chosen = state.selection if sent[0] in state.selection.heads else \
        state.selection.with_(Heads(others + sent))
    return replace(state, selection=chosen, head=sent[0], weights=None)


def _sent(gesture: dict, facts: Facts) -> tuple[HeadKey, ...]:
    """The heads of a gesture that are there: [model, layer, head] each, or as in a URL."""
    try:
        told = Heads.from_url([str(text) for text in gesture.get("keys") or []]).heads
    except ValueError:
        told = ()
    keys = dict.fromkeys([*told, *(_key(h) for h in gesture.get("heads") or [])])
    return tuple(key for key in keys if facts.has_head(key))


def _key(sent: list) -> HeadKey:
    model, layer, head = sent
    return str(model), int(layer), int(head)


def _focus(state: State, gesture: dict, facts: Facts) -> State:
    image = gesture.get("image")
    if not isinstance(image, int) or not 0 <= image < facts.images:
        return replace(state, focus=None) if image is None else state
    return replace(state, focus=None if image == state.focus else image)


def _query(state: State, gesture: dict, facts: Facts) -> State:
    token = gesture.get("token")
    return replace(state, query=token) if isinstance(token, int) and token >= 0 else state


def _weights(state: State, gesture: dict, facts: Facts) -> State:
    """Brush a range of weights; none at all brings the largest back."""
    ends = gesture.get("range")
    if ends is None:
        return replace(state, weights=None)
    if not (isinstance(ends, list) and len(ends) == 2 and all(map(_finite, ends))):
        return state
    low, high = (float(f"{min(max(v, 0.0), 1.0):.6g}") for v in sorted(ends))
    return replace(state, weights=(low, high))


def _mode(state: State, gesture: dict, facts: Facts) -> State:
    return control(state, "mode", gesture.get("mode"))


def _pin(state: State, gesture: dict, facts: Facts) -> State:
    """Pin one head; none at all releases it."""
    sent = _sent(gesture, facts)[:1]
    if not sent:
        return state if gesture.get("keys") else replace(state, pin=None)
    return replace(state, pin=sent[0])


def _pair(state: State, gesture: dict, facts: Facts) -> State:
    """Compare the heads of two models; of one and itself, the pair turned round."""
    models = gesture.get("models")
    if not (isinstance(models, list) and len(models) == 2
            and all(name in facts.names for name in models)):
        return state
    one, other = models
    if one == other:
        return replace(state, pair=state.paired[::-1]) if state.paired else state
    return replace(state, pair=(one, other))


def _sql(state: State, gesture: dict, facts: Facts) -> State:
    """What stands in the console; with `open`, the page turns to it."""
    text = gesture.get("sql")
    if not isinstance(text, str) or len(text) > LONGEST_SQL:
        return state
    return replace(state, sql=text, tab="sql" if gesture.get("open") else state.tab)


def _drop(state: State, gesture: dict, facts: Facts) -> State:
    source = str(gesture.get("source"))
    if source == "*":
        return replace(state, selection=Selection())
    if source in ("focus", "weights"):
        return replace(state, **{source: None})  # type: ignore[arg-type]
    return replace(state, selection=state.selection.without(source))


GESTURES = {"region": _region, "heads": _heads, "open": _open, "focus": _focus, "query": _query,
            "weights": _weights, "mode": _mode, "pin": _pin, "pair": _pair, "sql": _sql,
            "drop": _drop}
