"""Orders of pruning: complete, in the right direction, ranked and judged on different images."""

from __future__ import annotations

import hashlib

import pytest

from precompute.orders import LEAST_FIRST, MOST_FIRST, RANDOM, Order, fractions, make_orders, split
from store.reader import Store
from store.schema import RANKED
from tests.synthetic import make_rows

HEADS = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
HARM = {(0, 0): 0.2, (0, 1): 0.5, (1, 0): 0.1, (1, 1): 0.5, (1, 2): 0.3}
"""On the ranking images, 0 and 1; on the others it is the other way round."""


def _files(count: int) -> list[tuple[int, str]]:
    return [(i, hashlib.sha256(str(i).encode()).hexdigest()) for i in range(count)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rows = []
    for image in range(4):
        for head in reversed(HEADS):
            harm = (HARM[head] if image < 2 else 1 - HARM[head]) + (0.05 if image % 2 else -0.05)
            rows.append({"model": "m", "image": image, "layer": head[0], "head": head[1],
                         "ablation": "zero", "probability": 1 - harm, "probability_drop": harm,
                         "embedding_l2": harm, "flip": harm > 0.4 if image else False,
                         "layer_cls_l2": harm if head[0] else None})
    others = [r | {"ablation": "mean", "embedding_l2": 0.0} for r in rows]
    return make_rows(tmp_path_factory.mktemp("orders") / "s", head_scores=rows + others)


def _order(orders: list[Order], measure: str, order: str) -> list[tuple[int, int]]:
    return next(list(o.heads) for o in orders if (o.measure, o.order) == (measure, order))


@pytest.mark.parametrize("count", [2, 3, 10, 400])
def test_every_image_ranks_or_judges(count: int) -> None:
    ranking, judging = split(_files(count))
    assert sorted(ranking + judging) == list(range(count))
    assert ranking and judging
    if count == 400:
        assert 160 < len(ranking) < 240


def test_images_stay_on_their_side_when_others_come() -> None:
    few, more = split(_files(50)), split(_files(300))
    assert all(set(one) <= set(other) for one, other in zip(few, more, strict=True))
    assert split(list(reversed(_files(50)))) == tuple(sorted(s, reverse=True) for s in few)


def test_copies_of_a_file_are_on_one_side() -> None:
    sides = [set(side) for side in split([(i, sha) for i, (_, sha) in enumerate(_files(40) * 2)])]
    assert all({(i + 40) % 80 for i in side} == side for side in sides)


def test_neither_side_is_empty_unless_there_is_but_one_image() -> None:
    for i in range(10):
        same = [(n, f"{i}") for n in range(3)]
        assert sorted(map(len, split(same))) == [1, 2]
        assert split([(7, f"{i}")]) == ([7], [])
    assert split([]) == ([], [])


def test_every_order_has_every_head_once(store: Store) -> None:
    orders = make_orders(store, "m", [0, 1])
    assert all(sorted(o.heads) == HEADS for o in orders)
    named = [(o.measure, o.order) for o in orders]
    assert len(set(named)) == len(named)
    known = {"probability", "probability_drop", "flip", "embedding_l2", "layer_cls_l2"}
    assert named == [(m.name, order) for m in RANKED if m.name in known
                     for order in (LEAST_FIRST, MOST_FIRST)] + [
        (RANDOM, str(i)) for i in range(20)]


def test_heads_are_in_the_order_in_which_they_matter_to_the_ranking_images(store: Store) -> None:
    orders = make_orders(store, "m", [0, 1])
    for measure in ("probability", "probability_drop", "embedding_l2"):
        assert _order(orders, measure, LEAST_FIRST) == [(1, 0), (0, 0), (1, 2), (0, 1), (1, 1)]
        assert _order(orders, measure, MOST_FIRST) == [(0, 1), (1, 1), (1, 2), (0, 0), (1, 0)]
    other = make_orders(store, "m", [2, 3])
    assert _order(other, "embedding_l2", LEAST_FIRST) == [(0, 1), (1, 1), (1, 2), (0, 0), (1, 0)]


def test_ties_are_in_the_order_of_the_model(store: Store) -> None:
    orders = make_orders(store, "m", [1])
    assert _order(orders, "flip", LEAST_FIRST) == [(0, 0), (1, 0), (1, 2), (0, 1), (1, 1)]
    assert _order(orders, "flip", MOST_FIRST) == [(0, 1), (1, 1), (0, 0), (1, 0), (1, 2)]


def test_heads_without_the_measure_matter_least(store: Store) -> None:
    orders = make_orders(store, "m", [0, 1])
    assert _order(orders, "layer_cls_l2", LEAST_FIRST) == [(0, 0), (0, 1), (1, 0), (1, 2), (1, 1)]
    assert _order(orders, "layer_cls_l2", MOST_FIRST) == [(1, 1), (1, 2), (1, 0), (0, 0), (0, 1)]


def test_random_orders_are_seeded_and_differ(store: Store) -> None:
    def drawn(count: int, seed: int) -> list[Order]:
        return [o for o in make_orders(store, "m", [0], count, seed) if o.measure == RANDOM]

    assert drawn(20, 0)[:5] == drawn(5, 0)
    assert drawn(20, 0) != drawn(20, 1)
    assert len({o.heads for o in drawn(20, 0)}) > 10


def test_without_ranking_images_only_chance_orders_heads(store: Store) -> None:
    assert {o.measure for o in make_orders(store, "m", [])} == {RANDOM}


@pytest.mark.parametrize("heads", [1, 2, 3, 7, 12, 36, 144, 384, 1000])
@pytest.mark.parametrize("steps", [1, 8, 15])
def test_points_of_a_curve(heads: int, steps: int) -> None:
    found = fractions(heads, steps)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, heads)
    for share in (0.1, 0.25, 0.5, 0.75):
        assert min(abs(n - share * heads) for n in found) <= max(1, 0.01 * heads)
    assert len(found) == min(heads, max(steps, len(fractions(heads, 1))))
    if heads >= 36:
        assert sum(n <= heads / 2 for n in found) > len(found) / 2
