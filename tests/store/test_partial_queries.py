"""What the views of partial pruning ask, against the same counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from store import partial_queries as queries
from store.queries import Ask
from store.reader import open_store
from store.schema import MODES, RANKED
from store.selection import Labels, Selection
from tests.synthetic import make_rows, make_store

HEADS = (("alpha", 0, 1), ("alpha", 5, 3), ("beta", 2, 0))
ALL = Selection()
CATS = Selection().with_(Labels(("cat",)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(make_store(tmp_path_factory.mktemp("partial") / "atlas", 50))


def ask(store, selection: Selection = ALL, models=("alpha", "beta", "gamma")) -> Ask:
    return Ask(store, models, selection)


def values(store, quantity: str, images: set[int]) -> dict[tuple, list[float]]:
    """Each head's and mode's defined values at these images."""
    found: dict[tuple, list[float]] = {}
    for row in store.query("SELECT * FROM partial_pruning ORDER BY image").to_pylist():
        value = row[quantity]
        if row["image"] in images and value is not None and math.isfinite(value):
            key = (row["model"], row["layer"], row["head"], row["mode"])
            found.setdefault(key, []).append(value)
    return found


def measured(store) -> dict[int, str]:
    return {r["image"]: r["label"] for r in queries.measured(ask(store)).rows(store).to_pylist()}


@pytest.mark.parametrize("quantity", queries.QUANTITIES)
@pytest.mark.parametrize("selection", [ALL, CATS], ids=["all", "cats"])
def test_means_over_the_images_that_pass_and_have_it(store, quantity, selection):
    images = measured(store)
    passing = {i for i, label in images.items() if not selection.labels or label == "cat"}
    assert passing
    expected = values(store, quantity, passing)
    rows = queries.by_mode(ask(store, selection), quantity, HEADS, None).rows(store).to_pylist()
    assert {(r["model"], r["layer"], r["head"], r["mode"]) for r in rows} == {
        (*head, mode) for head in HEADS for mode in MODES}
    for row in rows:
        own = expected.get((row["model"], row["layer"], row["head"], row["mode"]), [])
        assert (row["images"], row["everything"]) == (len(passing), len(images))
        if not own:
            assert (row["value"], row["low"], row["high"]) == (None, None, None)
            continue
        reach = 1.96 * np.std(own, ddof=1) / math.sqrt(len(own))
        assert [row["value"], row["low"], row["high"]] == pytest.approx(
            [np.mean(own), np.mean(own) - reach, np.mean(own) + reach])


def test_modes_of_the_class_token_are_undefined_without_one(store):
    rows = queries.by_mode(ask(store), "embedding_l2", HEADS[2:], None).rows(store).to_pylist()
    assert {r["mode"] for r in rows if r["value"] is None} == {
        mode for mode in MODES if mode.startswith("cls")}


def test_one_image_is_itself_whatever_the_filter(store):
    image = next(i for i, label in measured(store).items() if label != "cat")
    rows = queries.by_mode(ask(store, CATS), "js_divergence", HEADS, image).rows(store).to_pylist()
    expected = values(store, "js_divergence", {image})
    known = {(r["model"], r["layer"], r["head"], r["mode"]): [r["value"]] for r in rows
             if r["value"] is not None}
    assert known == {key: own for key, own in expected.items() if key[:3] in HEADS}
    assert {(r["low"], r["images"], r["everything"]) for r in rows} == {(None, 1, 1)}


def test_without_heads_there_is_nothing_to_average(store):
    assert queries.by_mode(ask(store), "probability", (), None).rows(store).num_rows == 0
    assert queries.predictions(ask(store), "cls", (), None).rows(store).num_rows == 0


@pytest.mark.parametrize("importance", ["probability_drop", "probability", "embedding_l2"])
def test_the_leader_ranks_first_or_else_changes_the_embedding_most(store, importance):
    rows = queries.leaders(ask(store), importance, 8).rows(store).to_pylist()
    assert [r["model"] for r in rows] == ["alpha", "beta", "gamma"]
    for row in rows:
        heads = store.query("SELECT * FROM heads WHERE model = ? ORDER BY layer, head",
                            [row["model"]]).to_pylist()
        ranks = [h[f"{importance}_rank"] for h in heads]
        name = importance if ranks[0] is not None else "embedding_l2"
        first = min(heads, key=lambda h: h[f"{name}_rank"])
        assert (row["layer"], row["head"]) == (first["layer"], first["head"])
    assert queries.leaders(ask(store), importance, 2).rows(store).num_rows == 2


def test_every_ranked_measure_can_choose_leaders(store):
    for column in RANKED:
        assert queries.leaders(ask(store), column.name, 3).rows(store).num_rows == 3


LISTS = {
    (0, "none"): {1: 0.5, 2: 0.3}, (1, "none"): {1: 0.7, 3: 0.2}, (2, "none"): {4: 1.0},
    (0, "cls"): {2: 0.6, 1: 0.1, 5: 0.05, 6: 0.04, 7: 0.03},
    (1, "cls"): {8: 0.9, 2: 0.01}, (2, "cls"): None, (0, "head"): {9: 1.0},
}
"""Probabilities by class, for (image, mode)."""


def listed(tmp_path):
    rows = [{"model": "m", "image": image, "layer": 0, "head": 0, "mode": mode,
             "top5": None if top is None else [
                 {"class": c, "name": f"class {c}", "probability": p} for c, p in top.items()]}
            for (image, mode), top in LISTS.items()]
    return make_rows(tmp_path / "lists", partial_pruning=rows, images=[
        {"image": i, "path": f"{i}", "label": "cat" if i < 2 else "dog"} for i in range(3)])


@pytest.mark.parametrize(("selection", "focus", "mode", "expected"), [
    (CATS, None, "none", {1: (0.6, 2, 2), 2: (0.15, 1, 2), 3: (0.1, 1, 2)}),
    (CATS, None, "cls", {8: (0.45, 1, 2), 2: (0.305, 2, 2), 1: (0.05, 1, 2), 5: (0.025, 1, 2),
                         6: (0.02, 1, 2)}),
    (ALL, None, "none", {1: (0.4, 2, 3), 4: (1 / 3, 1, 3), 2: (0.1, 1, 3),
                                 3: (0.2 / 3, 1, 3)}),
    (CATS, 2, "none", {4: (1.0, 1, 1)}),
    (ALL, 2, "cls", {}),
], ids=["cats", "cats, cls", "all", "focus", "no list"])
def test_a_class_that_is_not_listed_counts_as_nothing(tmp_path, selection, focus, mode, expected):
    store = listed(tmp_path)
    rows = queries.predictions(ask(store, selection, ("m",)), "cls", (("m", 0, 0),), focus
                               ).rows(store).to_pylist()
    assert {r["mode"] for r in rows} <= {"none", "cls"}
    own = [r for r in rows if r["mode"] == mode]
    assert [r["class"] for r in own] == list(expected)
    for row, (probability, times, images) in zip(own, expected.values(), strict=True):
        assert row["probability"] == pytest.approx(probability)
        assert (row["listed"], row["images"]) == (times, images)
        assert row["name"] == f"class {row['class']}"


@pytest.mark.parametrize("call", [
    lambda a: queries.by_mode(a, "margin; DROP TABLE models", HEADS, None),
    lambda a: queries.predictions(a, "sideways", HEADS, None),
    lambda a: queries.leaders(a, "hop_entropy", 4),
], ids=["quantity", "mode", "importance"])
def test_names_are_checked(store, call):
    with pytest.raises((KeyError, ValueError)):
        call(ask(store))
