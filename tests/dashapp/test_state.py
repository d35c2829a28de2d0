"""A state survives its URL; a URL from anywhere gives a state that this store can show."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

import pytest

from dashapp import state
from dashapp.facts import Block, Facts, Model
from dashapp.state import CHOICES, defaults, from_url
from store.selection import Heads, Labels, Outcome, Region, Selection

SQUARE = ((0.0, 0.0), (1.5, 0.0), (1.5, -2.25), (0.0, -2.25))
FULL = (Selection().with_(Labels(("cat", "dog"))).with_(Outcome("any_wrong"))
        .with_(Region("alpha", SQUARE)).with_(Region("beta", SQUARE))
        .with_(Heads((("alpha", 0, 1), ("gamma", 3, 5)))))
ODD = ("deit/small", "a,b & c=1", "x@y", "<b>\"q\"'</b>", "ünïcödé 模型", "%{x}+100%", "?#", " ")

CASES = [
    {},
    {"models": ("alpha",)},
    {"models": ()},
    {"models": ("beta", "gamma"), "hops": "hop"},
    {"selection": FULL},
    {"focus": 0},
    {"focus": 59, "selection": Selection().with_(Labels(("fish",)))},
    *({key: value} for key, values in CHOICES.items() for value in values),
    {"head": ("alpha", 2, 3), "query": 49, "weights": (0.0025, 0.125)},
    {"head": ("beta", 0, 1)},
    {"weights": (0.0, 1.0), "models": ("beta",)},
    {"models": ("alpha",), "importance": "flip", "strength": "sink", "colour": "effect",
     "axis": "depth", "marks": "thumbnails", "hops": "side", "selection": FULL, "focus": 7},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_round_trip(facts, changes):
    start = replace(defaults(facts, changes.get("models")), **changes)
    assert from_url(start.to_url(facts), facts) == (start, [])


def test_the_default_state_has_a_bare_url(facts):
    assert defaults(facts).to_url(facts) == ""
    assert from_url("", facts) == from_url("?", facts) == (defaults(facts), [])


def odd_facts() -> Facts:
    blocks = (Block(2, 7, 7), Block(2, 7, 7))
    models = tuple(Model(name, i, 2, 2, 7, 7, "native", {}, blocks) for i, name in enumerate(ODD))
    return Facts(models, (), 10, tuple((name, 1) for name in ODD))


@pytest.mark.parametrize("name", ODD)
def test_odd_names_survive(name):
    facts = odd_facts()
    selection = (Selection().with_(Labels((name,))).with_(Heads(((name, 1, 1),)))
                 .with_(Region(name, SQUARE)))
    start = replace(defaults(facts, (name,)), selection=selection)
    assert from_url(start.to_url(facts), facts) == (start, [])


HOSTILE = [
    ("?model=nope", "model 'nope'"),
    ("?model=alpha&model=nope", "model 'nope'"),
    ("?importance=drop%20table", "importance"),
    ("?strength=", "strength"),
    ("?colour=<script>", "colour"),
    ("?image=60", "image '60'"),
    ("?image=-1", "image"),
    ("?image=1e9", "image"),
    ("?image=%C2%B2", "image"),
    ("?image=" + "9" * 400, "image"),
    ("?label=unicorn", "label 'unicorn'"),
    ("?heads=0.99%40alpha", "head 0.99"),
    ("?heads=0.1%40nope", "head 0.1"),
    ("?heads=zzz%40alpha", "heads"),
    ("?lasso=1,2,3,4,5,6%40nope", "lasso"),
    ("?lasso=1,nan,3,4,5,6%40alpha", "lasso"),
    ("?outcome=often", "outcome"),
    ("?kind=sideways", "kind 'sideways' (one of patch, class)"),
    ("?space=umap", "space"),
    ("?paint=", "paint"),
    ("?looks=up", "looks"),
    ("?head=0.1%40nope", "head 0.1 of 'nope'"),
    ("?head=6.0%40alpha", "head 6.0"),
    ("?head=0.1,0.2%40alpha", "head '0.1,0.2@alpha'"),
    ("?head=zzz", "head 'zzz'"),
    ("?query=50&head=0.0%40alpha", "query '50' (0 to 49)"),
    ("?query=-1", "query"),
    ("?weights=0.5,0.1", "weights"),
    ("?weights=0.1", "weights"),
    ("?weights=nan,1", "weights"),
    ("?weights=0,inf", "weights"),
    ("?" + "a=1&" * 3000, "too many"),
    ("?" + "x" * 70_000, "longer"),
]


@pytest.mark.parametrize(("search", "says"), HOSTILE, ids=lambda x: x[:30])
def test_hostile_urls_are_mended_and_said(facts, search, says):
    found, problems = from_url(search, facts)
    assert says in " ".join(problems)
    assert all(len(p) < 400 for p in problems)
    assert set(found.models) <= set(facts.names)
    assert found.models
    assert from_url(found.to_url(facts), facts) == (found, [])


@pytest.mark.parametrize("search", ["?&&&===", "?%FF%FE", "??", "?model", "#", "?\x00=1", "?é=ü",
                                    "?unknown=1", "?heads=", "?lasso=", "?label=", "?outcome="])
def test_noise_is_ignored(facts, search):
    found, problems = from_url(search, facts)
    assert (found.selection, problems) == (Selection(), [])


def test_embedding_measure_where_a_model_has_no_classifier(facts):
    assert defaults(facts).importance == "embedding_l2"
    assert defaults(facts, ("alpha", "beta")).importance == "probability_drop"


def test_a_page_without_labels_is_not_coloured_by_label(facts):
    assert defaults(replace(facts, labels=())).colour != "label"


def test_many_models_are_not_all_shown_at_first():
    assert len(defaults(odd_facts()).models) == state.SHOWN_AT_FIRST


def test_the_url_stays_short(facts):
    heads = tuple((m.name, layer, head) for m in facts.models
                  for layer in range(m.layers) for head in range(m.heads))
    full = replace(defaults(facts), selection=FULL.with_(Heads(heads)))
    assert len(full.to_url(facts)) < 1000
    assert urlencode(full.selection.to_url()) in full.to_url(facts)
