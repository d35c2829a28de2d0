"""A selection is a value: replaced, removed, skipped, to SQL and back from a URL."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest

from store.polygon import MAX_VERTICES, contains, simplify
from store.selection import Heads, Labels, Outcome, Region, Scope, Selection

SQUARE = ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0))
ODD_NAMES = ("deit/small", "a,b & c", "x@y=1", "<b>\"quoted\"'</b>", "ünïcödé 模型", "%{x} + 100%")
SCOPE = Scope(("alpha", "beta"), lambda region: [1, 2, 3])

FULL = (Selection().with_(Labels(("cat", "a, b"))).with_(Outcome("disagree"))
        .with_(Heads((("alpha", 0, 1), ("beta", 11, 2)))).with_(Region("alpha", SQUARE)))


def through_url(selection: Selection) -> tuple[Selection, list[str]]:
    return Selection.from_url(parse_qs(urlencode(selection.to_url())))


def test_newest_replaces_and_empty_removes():
    first = Selection().with_(Labels(("cat",)))
    assert first.with_(Labels(("dog",))).labels == ("dog",)
    assert first.with_(Labels(())) == Selection()
    assert FULL.without("outcome").outcome == ""
    assert FULL.without("outcome").labels == ("cat", "a, b")


def test_lassos_of_two_models_stand_side_by_side():
    two = Selection().with_(Region("alpha", SQUARE)).with_(Region("beta", SQUARE))
    assert [r.model for r in two.regions] == ["alpha", "beta"]
    assert two.with_(Region("alpha", ())).regions == (Region("beta", SQUARE),)


def test_the_order_of_gestures_does_not_matter():
    backwards = Selection()
    for clause in reversed(FULL.clauses):
        backwards = backwards.with_(clause)
    assert backwards == FULL


@pytest.mark.parametrize(("keys", "sources"), [
    (["image"], {"labels", "outcome", "region"}),
    (["model", "layer", "head"], {"heads_model", "heads_layer", "heads_head"}),
    (["model", "image", "layer", "head"],
     {"labels", "outcome", "region", "heads_model", "heads_layer", "heads_head"}),
    (["model"], set()),
])
def test_only_clauses_of_the_grain_apply(keys, sources):
    found = FULL.where(keys, SCOPE)
    assert set(found.params) == sources
    assert all(f"${name}" in found.sql for name in sources)


def test_a_view_skips_its_own_clause():
    assert set(FULL.where(["image"], SCOPE, skip=["labels", "outcome"]).params) == {"region"}
    assert Selection().where(["image"], SCOPE).where == ""


def test_values_never_enter_sql():
    nasty = "x'); DROP TABLE heads; --"
    selection = (Selection().with_(Labels((nasty,))).with_(Region(nasty, SQUARE))
                 .with_(Heads(((nasty, 0, 0),))))
    assert "DROP" not in selection.where(["image", "model", "layer", "head"], SCOPE).sql


def test_two_lassos_have_two_parameters():
    two = Selection().with_(Region("alpha", SQUARE)).with_(Region("beta", SQUARE))
    assert len(two.where(["image"], SCOPE).params) == 2


@pytest.mark.parametrize("selection", [
    Selection(), FULL, *(Selection().with_(Region(name, SQUARE)).with_(Labels((name,)))
                         .with_(Heads(((name, 3, 4),))) for name in ODD_NAMES)])
def test_url_round_trip(selection):
    assert through_url(selection) == (selection, [])


@pytest.mark.parametrize(("values", "says"), [
    ({"lasso": ["1,2,3@alpha"]}, "lasso"),
    ({"lasso": ["1,2,nan,4,5,6@alpha"]}, "lasso"),
    ({"lasso": ["1,2,inf,4,5,6@alpha"]}, "lasso"),
    ({"lasso": ["one,two@alpha"]}, "lasso"),
    ({"lasso": [",".join(["1"] * 5000) + "@alpha"]}, "lasso"),
    ({"heads": ["0.1.2@alpha"]}, "heads"),
    ({"heads": ["-1.0@alpha"]}, "heads"),
    ({"heads": ["99999.1@alpha"]}, "heads"),
    ({"heads": ["²³.1@alpha"]}, "heads"),
    ({"heads": ["0.1," * 6000 + "0.1@a"] + [f"{i}.{j}@m" for i in range(99) for j in range(99)]},
     "heads"),
    ({"outcome": ["'; --"]}, "outcome"),
])
def test_hostile_urls_are_left_out_with_a_word(values, says):
    selection, problems = Selection.from_url(values)
    assert selection == Selection()
    assert len(problems) == 1
    assert says in problems[0]
    assert len(problems[0]) < 200


def inside_slowly(polygon, x, y):
    """A ray to the right crosses the outline an odd number of times."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("polygon", [
    SQUARE, ((0, 0), (10, 5), (0, 10)), ((0, 0), (10, 10), (10, 0), (0, 10)),
    ((0, 0), (10, 0), (5, 5), (10, 10), (0, 10)), ((1, 1), (1, 1), (1, 1))])
def test_inside_a_polygon(polygon):
    x, y = np.random.default_rng(1).uniform(-2, 12, (2, 400))
    expected = [inside_slowly(polygon, a, b) for a, b in zip(x, y, strict=True)]
    assert contains(polygon, x, y).tolist() == expected


def test_a_simplified_lasso_holds_the_same_points_but_for_its_rim():
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    ring = list(zip((50 * np.cos(angle)).tolist(), (30 * np.sin(angle)).tolist(), strict=True))
    fewer = simplify(ring)
    assert 3 <= len(fewer) <= MAX_VERTICES
    x, y = np.random.default_rng(2).uniform(-60, 60, (2, 5000))
    differ = contains(ring, x, y) != contains(fewer, x, y)
    rim = np.abs(np.hypot(x / 50, y / 30) - 1) < 0.02
    assert not (differ & ~rim).any()


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_a_simplified_lasso_survives_the_url(scale):
    ring = simplify([(x * scale, y * scale) for x, y in
                     np.random.default_rng(3).normal(size=(30, 2)).tolist()])
    selection = Selection().with_(Region("alpha", ring))
    assert through_url(selection) == (selection, [])


def test_nothing_is_left_of_no_points():
    assert simplify([]) == ()
    assert simplify([(1.0, 1.0)] * 5) == ()
