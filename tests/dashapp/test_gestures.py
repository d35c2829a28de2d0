"""What a hand does to a state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashapp import gestures
from dashapp.state import defaults
from store.selection import Heads, Labels, Outcome, Region, Selection

SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2]]


def after(facts, *done: dict):
    state = defaults(facts)
    for gesture in done:
        state = gestures.apply(state, gesture, facts)
    return state


def test_a_lasso_replaces_that_of_the_same_model(facts):
    first = {"kind": "region", "model": "alpha", "points": SQUARE}
    second = {**first, "points": [[x + 1, y] for x, y in SQUARE]}
    other = {**first, "model": "beta"}
    regions = after(facts, first, second, other).selection.regions
    assert [r.model for r in regions] == ["alpha", "beta"]
    assert (3.0, 0.0) in regions[0].points


def test_a_double_click_clears_all_lassos(facts):
    drawn = {"kind": "region", "model": "alpha", "points": SQUARE}
    assert after(facts, drawn, {"kind": "region", "model": None}) == defaults(facts)


def test_heads_are_toggled_and_replaced(facts):
    one = {"kind": "heads", "op": "toggle", "heads": [["alpha", 0, 1]]}
    two = {"kind": "heads", "op": "toggle", "heads": [["beta", 1, 2]]}
    assert after(facts, one, two).selection.heads == (("alpha", 0, 1), ("beta", 1, 2))
    assert after(facts, one, two, one).selection.heads == (("beta", 1, 2),)
    assert after(facts, one, one) == defaults(facts)
    lasso = {"kind": "heads", "op": "replace", "heads": [["gamma", 0, 0], ["gamma", 0, 0]]}
    assert after(facts, one, lasso).selection.heads == (("gamma", 0, 0),)
    assert after(facts, one, {**lasso, "heads": []}) == defaults(facts)


def test_an_image_is_focused_and_released(facts):
    assert after(facts, {"kind": "focus", "image": 4}).focus == 4
    assert after(facts, *[{"kind": "focus", "image": 4}] * 2).focus is None
    assert after(facts, {"kind": "focus", "image": 4}, {"kind": "drop", "source": "focus"}
                 ).focus is None


def test_the_head_page_turns_to_the_head_chosen_last(facts):
    one = {"kind": "heads", "op": "toggle", "heads": [["alpha", 0, 1]]}
    two = {"kind": "heads", "op": "toggle", "heads": [["beta", 1, 2]]}
    assert after(facts).opened == ("alpha", 0, 0)
    assert after(facts, one, two).opened == ("beta", 1, 2)
    assert after(facts, one, two, two).opened == ("alpha", 0, 1)
    turned = after(facts, one, two, {"kind": "open", "keys": ["0.1@alpha"]})
    assert turned.opened == ("alpha", 0, 1)
    assert turned.selection == after(facts, one, two).selection
    assert gestures.apply(turned, {**two, "heads": [["gamma", 3, 5]]}, facts).opened == (
        "gamma", 3, 5)
    assert replace(turned, models=("gamma",)).opened == ("gamma", 0, 0)
    assert replace(turned, models=()).opened is None


def test_a_head_that_is_opened_is_chosen_too(facts):
    state = after(facts, {"kind": "open", "keys": ["2.3@alpha"]})
    assert (state.head, state.selection.heads) == (("alpha", 2, 3), (("alpha", 2, 3),))


def test_heads_can_be_told_as_in_a_url(facts):
    state = after(facts, {"kind": "heads", "op": "replace", "keys": [
        "0.1,9.9@alpha", "1.2@beta", "0.0@nope"]})
    assert state.selection.heads == (("alpha", 0, 1), ("beta", 1, 2))


def test_a_token_is_picked_and_forgotten_where_there_is_none(facts):
    state = after(facts, {"kind": "open", "keys": ["0.0@beta"]}, {"kind": "query", "token": 195})
    assert gestures.fitting(state, facts).query == 195
    smaller = gestures.apply(state, {"kind": "open", "keys": ["0.0@alpha"]}, facts)
    assert gestures.fitting(smaller, facts).query is None
    assert gestures.fitting(replace(smaller, models=()), facts).query is None


def test_weights_are_brushed_and_cleared(facts):
    brushed = {"kind": "weights", "range": [0.5, -0.2]}
    assert after(facts, brushed).weights == (0.0, 0.5)
    assert after(facts, brushed, {"kind": "weights", "range": None}).weights is None
    assert gestures.control(after(facts, brushed), "links", "5").weights is None
    assert gestures.control(after(facts, brushed), "looks", "from").weights == (0.0, 0.5)
    other = {"kind": "heads", "op": "toggle", "heads": [["alpha", 0, 1]]}
    assert after(facts, brushed, other).weights is None


@pytest.mark.parametrize(("source", "left"), [
    ("labels", {"outcome", "region:alpha", "heads"}),
    ("outcome", {"labels", "region:alpha", "heads"}),
    ("region:alpha", {"labels", "outcome", "heads"}),
    ("heads", {"labels", "outcome", "region:alpha"}),
    ("*", set()), ("nonsense", {"labels", "outcome", "region:alpha", "heads"})])
def test_a_chip_removes_its_clause(facts, source, left):
    full = (Selection().with_(Labels(("cat",))).with_(Outcome("any_wrong"))
            .with_(Region("alpha", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))))
            .with_(Heads((("alpha", 0, 0),))))
    state = gestures.apply(replace(defaults(facts), selection=full),
                           {"kind": "drop", "source": source}, facts)
    assert {c.source for c in state.selection.clauses} == left


@pytest.mark.parametrize("gesture", [
    {}, {"kind": "nonsense"}, {"kind": "region", "model": "nope", "points": SQUARE},
    {"kind": "region", "model": "alpha", "points": [[0, 0], [1, 1]]},
    {"kind": "region", "model": "alpha", "points": [[None, "x"], [float("nan"), 1]] * 4},
    {"kind": "focus", "image": 60}, {"kind": "focus", "image": "1"}, {"kind": "focus", "image": -1},
    {"kind": "heads", "op": "replace", "heads": [["nope", 0, 0], ["alpha", 99, 0]]},
    {"kind": "heads", "op": "replace", "keys": ["nonsense", 7]}, {"kind": "open", "keys": []},
    {"kind": "open", "keys": ["99.0@alpha"]}, {"kind": "query", "token": "1"},
    {"kind": "query", "token": -1}, {"kind": "weights", "range": [0.1]},
    {"kind": "weights", "range": [None, "x"]}])
def test_a_senseless_gesture_changes_nothing(facts, gesture):
    assert gestures.apply(defaults(facts), gesture, facts) == defaults(facts)


@pytest.mark.parametrize(("name", "value"), [
    ("models", ["beta"]), ("labels", ["cat", "dog"]), ("outcome", "disagree"),
    ("importance", "flip"), ("strength", "sink"), ("colour", "agreement"), ("axis", "depth"),
    ("marks", "thumbnails"), ("hops", "hop"), ("kind", "class"), ("space", "pca"),
    ("cloud", "scatter"), ("paint", "layer"), ("looks", "from"), ("links", "5")])
def test_controls_show_what_they_set(facts, name, value):
    changed = gestures.control(defaults(facts), name, value)
    assert gestures.values(changed)[name] == value
    assert changed != defaults(facts)


@pytest.mark.parametrize("name", ["importance", "axis", "hops"])
def test_a_control_takes_only_its_choices(facts, name):
    assert gestures.control(defaults(facts), name, "nonsense") == defaults(facts)
