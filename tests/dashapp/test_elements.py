"""Panels are plain data that Dash's own classes accept."""

from __future__ import annotations

import json

import pytest

from dashapp import html, panels
from dashapp.guide import EXPLAINED, column
from dashapp.parts import button
from dashapp.state import from_url
from store.queries import Ask, Query
from tests.dashapp.elements import read

QUERIES = (Query("SELECT $a AS a", {"a": 1}), Query("SELECT '" + "x" * 9000 + "' AS a"))
PANELS = {
    "chips": lambda ask, state, facts: panels.chips(ask),
    "counts": panels.counts,
    "focus": panels.focus,
    "model key": lambda ask, state, facts: panels.model_key(state, facts),
    "problems": lambda ask, state, facts: panels.problems(["one"] * 7),
    "about": lambda ask, state, facts: [panels.about(column(name, getattr(state, name)))
                                        for name in EXPLAINED],
    "queries": lambda ask, state, facts: [
        panels.query_block("map", ask.store, "rows", query) for query in QUERIES],
}
STATES = ["", "model=gamma", "label=cat&heads=0.1%40alpha&outcome=all_wrong", "image=3", "image=77",
          "image=3&model=gamma", "lasso=900,900,901,900,900,901%40alpha"]


@pytest.mark.parametrize("search", STATES)
@pytest.mark.parametrize("panel", PANELS)
def test_panels_are_plain_data_that_dash_knows(panel, search, store, facts):
    state, _ = from_url("?" + search, facts)
    made = PANELS[panel](Ask(store, state.models, state.selection), state, facts)
    assert json.loads(json.dumps(made)) == made
    assert made
    for element in read(made):
        json.dumps(element, default=lambda one: one.to_plotly_json())


def test_an_element_is_what_dash_makes_of_it():
    made = html.Div([button(html.B("x"), tip="t", drop="heads"), "y"], id="a", style={"width": 1})
    assert json.loads(json.dumps(read(made), default=lambda one: one.to_plotly_json())) == made


def test_a_property_that_an_element_does_not_have_is_found():
    with pytest.raises(TypeError, match="colour"):
        read(html.Div([html.Span("x", colour="red")]))
