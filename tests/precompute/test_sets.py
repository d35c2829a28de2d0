"""Sets of heads across layers: curves and pairs against passes with hooks in several blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn

from precompute import sets
from precompute.batches import Batch
from precompute.clean import clean_pass
from precompute.orders import RANDOM, Order
from precompute.readout import Nothing
from precompute.sets import HeadSet, carry_sets, measure_curves, measure_pairs
from precompute.subject import Subject, Unpruned
from tests.precompute import slow
from tests.precompute.vits import as_subject, as_vit, batch_of, built, untouched

NAMES = ["class token", "norms everywhere", "average pooling", "DeiT distilled", "Swin", "SAM",
         "PiT", "CaiT", "gated, norm over joined heads", "EVA-02, norm over joined heads",
         "parallel scaling, one projection", "parallel things, norm over joined heads",
         "no classifier"]


def _subject(model: nn.Module, engine: str | None = None) -> Subject:
    return as_subject(model, engine or ("fast" if as_vit(model).anatomy.plain else "tail"))


def _orders(model: nn.Module) -> list[Order]:
    """Two random orders, and one from the last layer to the first."""
    heads = slow.heads_of(model)
    drawn = [np.random.default_rng(i).permutation(len(heads)) for i in range(2)]
    return [Order(RANDOM, str(i), tuple(heads[k] for k in order))
            for i, order in enumerate(drawn)] + [Order("taylor", "least_first", tuple(heads[::-1]))]


def _wanted(clean: slow.Outcome, after: slow.Outcome, batch: Batch, image: int) -> dict:
    """The columns that both tables draw on, of one image, from the outcomes alone."""
    (e, before), (f, logits) = clean, after
    found = {"embedding_l2": ((f - e)[image].norm() / e[image].norm()).item()}
    if before is None:
        return found | dict.fromkeys(("probability", "probability_drop", "js_divergence",
                                      "agree", "correct"))
    p, q = (v[image].double().softmax(-1).numpy() for v in (before, logits))
    middle, label = (p + q) / 2, batch.labels[image]
    divergence = (p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2
    return found | {
        "probability": q[p.argmax()], "probability_drop": p.max() - q[p.argmax()],
        "js_divergence": divergence, "agree": bool(q.argmax() == p.argmax()),
        "correct": None if label is None else bool(q.argmax() == int(label))}


def _agree(row: dict, wanted: dict, names: Sequence[str]) -> None:
    for name in names:
        if isinstance(wanted[name], float):
            assert row[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5), (name, row)
        else:
            assert row[name] == wanted[name], (name, row)


def _curves_agree(model: nn.Module, subject: Subject, orders: list[Order], steps: list[int],
                  ) -> None:
    batch = batch_of(model, 2)
    with untouched(model):
        rows = measure_curves(subject, batch, orders, steps)["pruning_points"].to_pylist()
    clean = slow.outcome(model, batch.pixels)
    asked = [(order, pruned) for order in orders for pruned in steps]
    after = [slow.without(model, batch.pixels, order.heads[:pruned]) for order, pruned in asked]
    assert len(rows) == 2 * len(asked)
    for number, row in enumerate(rows):
        image, which = divmod(number, len(asked))
        order, pruned = asked[which]
        assert (row["image"], row["measure"], row["order"], row["pruned"]) == \
            (image, order.measure, order.order, pruned)
        _agree(row, _wanted(clean, after[which], batch, image),
               ("embedding_l2", "probability", "agree", "correct"))


@pytest.mark.parametrize("name", NAMES)
def test_points_of_curves_agree_with_hooks_in_several_blocks(name: str) -> None:
    model = built(name)
    count = len(slow.heads_of(model))
    _curves_agree(model, _subject(model), _orders(model), [0, 1, count // 3, count - 1, count])


@pytest.mark.parametrize("engine", ["fast", "tail", "hooks"])
@pytest.mark.parametrize("rows", [1, 200, 100_000])
def test_sets_are_the_same_however_many_are_carried_together(
        monkeypatch, rows: int, engine: str) -> None:
    """One set at a time, a few, or all: then sets begin in other layers than their neighbours."""
    monkeypatch.setattr(sets, "ROW_TOKENS", {"cpu": rows})
    model = built("class token")
    _curves_agree(model, _subject(model, engine), _orders(model), [1, 2, 5])


@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree_with_hooks_in_two_blocks(name: str) -> None:
    model = built(name)
    heads, batch = slow.heads_of(model), batch_of(model, 2)
    pairs = [(heads[0], heads[-1]), (heads[-2], heads[-1]), (heads[1], heads[0]),
             (heads[len(heads) // 2], heads[-1])]
    table = measure_pairs(_subject(model), batch, pairs)["pair_scores"].to_pylist()
    clean = slow.outcome(model, batch.pixels)
    assert len(table) == 2 * len(pairs)
    for number, row in enumerate(table):
        image, which = divmod(number, len(pairs))
        one, other = pairs[which]
        assert (row["image"], row["layer"], row["head"], row["other_layer"],
                row["other_head"]) == (image, *one, *other)
        after = slow.without(model, batch.pixels, pairs[which])
        _agree(row, _wanted(clean, after, batch, image),
               ("embedding_l2", "probability_drop", "js_divergence"))


def test_sets_of_one_engine_call_may_be_empty_full_and_begin_late() -> None:
    """Each by its own number, whatever is carried beside it."""
    model = built("class token")
    batch, heads = batch_of(model, 2), slow.heads_of(model)
    subject = _subject(model)
    unpruned = Unpruned(subject, batch, clean_pass(model, subject.vit.anatomy, batch.pixels))
    asked = [[], heads, [heads[-1]], [heads[0], heads[-1]], heads[3:6]]
    found = carry_sets(unpruned, [HeadSet(i, frozenset(one)) for i, one in enumerate(asked)])
    for number, one in enumerate(asked):
        wanted = slow.without(model, batch.pixels, one)[0]
        away = (found.embedding[number] - wanted).norm() / wanted.norm()
        assert away < 1e-4, one


@pytest.mark.parametrize(("heads", "first"), [
    ([], 0), ([(0, 1)], 0), ([(2, 0), (1, 2)], 1), ([(2, 0)], 2)])
def test_a_set_begins_at_its_first_layer(heads: list, first: int) -> None:
    assert HeadSet(0, frozenset(heads)).first == first


def test_without_a_classifier_only_the_embedding_is_measured() -> None:
    model = built("class token")
    batch = batch_of(model, 2)
    subject = as_subject(model, classifier=Nothing())
    (row, *_) = measure_curves(subject, batch, _orders(model)[:1], [3])[
        "pruning_points"].to_pylist()
    assert row["embedding_l2"] > 0
    assert row["agree"] is row["correct"] is row["probability"] is None
