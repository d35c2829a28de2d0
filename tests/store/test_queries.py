"""Every question of a view, against plain Python over the rows."""

from __future__ import annotations

import math
import statistics

import pytest

from store import bins, card_queries, queries
from store.polygon import contains
from store.queries import Ask
from store.reader import Store, open_store
from store.schema import SUMMARISED
from store.selection import Heads, Labels, Outcome, Region, Selection
from tests.synthetic import make_store

MODELS = ("alpha", "beta")
SQUARE = ((-5.0, 5.0), (5.0, 5.0), (5.0, 15.0), (-5.0, 15.0))
HEADS = (("alpha", 0, 1), ("beta", 2, 0))
SELECTIONS = {
    "nothing": Selection(),
    "label": Selection().with_(Labels(("cat", "dog"))),
    "lasso": Selection().with_(Region("alpha", SQUARE)),
    "two lassos": Selection().with_(Region("alpha", SQUARE)).with_(Region("beta", SQUARE)),
    "wrong": Selection().with_(Outcome("any_wrong")),
    "all wrong": Selection().with_(Outcome("all_wrong")),
    "correct": Selection().with_(Outcome("all_correct")),
    "disagree": Selection().with_(Outcome("disagree")),
    "heads": Selection().with_(Heads(HEADS)),
    "all of it": Selection().with_(Labels(("cat",))).with_(Region("beta", SQUARE))
    .with_(Outcome("any_wrong")).with_(Heads(HEADS)),
    "no image": Selection().with_(Region("alpha", ((9e3, 9e3), (9e3, 9e4), (9e4, 9e3)))),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_store(make_store(tmp_path_factory.mktemp("queries") / "atlas"))


@pytest.fixture(params=SELECTIONS, ids=str)
def ask(request, store) -> Ask:
    return Ask(store, MODELS, SELECTIONS[request.param])


def rows_of(store: Store, table: str) -> list[dict]:
    rows = store.query(f"SELECT * FROM {table}").to_pylist()
    return [r for r in rows if r.get("ablation", "zero") == "zero"]


def kept_images(ask: Ask) -> set[int]:
    """The images that pass, found without SQL."""
    images = {r["image"]: r for r in rows_of(ask.store, "images")}
    predictions = [r for r in rows_of(ask.store, "predictions") if r["model"] in ask.models]
    kept = set(images)
    if ask.selection.labels:
        kept &= {i for i, r in images.items() if r["label"] in ask.selection.labels}
    for region in ask.selection.regions:
        kept &= {r["image"] for r in predictions if r["model"] == region.model
                 and bool(contains(region.points, r["x"], r["y"]))}
    if ask.selection.outcome:
        kept &= {i for i in images if outcome(ask.selection.outcome,
                                              [r for r in predictions if r["image"] == i])}
    return kept


def outcome(name: str, own: list[dict]) -> bool:
    return {"all_correct": all(r["correct"] for r in own),
            "any_wrong": any(not r["correct"] for r in own),
            "all_wrong": all(not r["correct"] for r in own),
            "disagree": len({r["predicted"] for r in own}) > 1}[name]


def test_counts(ask):
    (row,) = queries.image_counts(ask).rows(ask.store).to_pylist()
    assert row == {"images": 60, "kept": len(kept_images(ask))}


@pytest.mark.parametrize("name", ["probability_drop", "flip", "hop_entropy", "cls_self"])
def test_head_values(ask, name):
    kept, by_head = kept_images(ask), {}
    for r in rows_of(ask.store, queries.table_of(name)):
        if r["model"] in ask.models and r["image"] in kept:
            by_head.setdefault((r["model"], r["layer"], r["head"]), []).append(r[name])
    found = queries.head_values(ask, name).rows(ask.store).to_pylist()
    assert [(r["model"], r["layer"], r["head"]) for r in found] == sorted(by_head)
    for r in found:
        values = [v for v in by_head[r["model"], r["layer"], r["head"]] if v is not None]
        if not values:
            assert r["value"] is None
            continue
        assert r["value"] == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert r["images"] == len(kept)
        if ask.selection.images.clauses and len(values) > 1:
            half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
            assert r["high"] - r["value"] == pytest.approx(half, abs=1e-6)
            assert r["value"] - r["low"] == pytest.approx(half, abs=1e-6)
        elif len(values) > 1:
            assert r["low"] <= r["value"] + 1e-6 <= r["high"] + 2e-6


def test_baselines(ask):
    kept = kept_images(ask)
    found = {r["model"]: r for r in queries.baselines(ask).rows(ask.store).to_pylist()}
    for model in ask.models:
        own = [r["probability"] for r in rows_of(ask.store, "predictions")
               if r["model"] == model and r["image"] in kept]
        if own:
            assert found[model]["probability"] == pytest.approx(statistics.fmean(own))
        else:
            assert model not in found


def test_overview(ask):
    kept = kept_images(ask)
    found = queries.overview(ask, "probability_drop").rows(ask.store).to_pylist()
    assert [(r["model"], r["image"]) for r in found] == [
        (m, i) for m in ask.models for i in range(60)]
    assert {r["image"] for r in found if r["kept"]} == kept
    scores = rows_of(ask.store, "head_scores")
    chosen = set(ask.selection.heads)
    for r in found[::17]:
        own = [s for s in scores if s["model"] == r["model"] and s["image"] == r["image"]]
        picked = [s["probability_drop"] for s in own
                  if not chosen or (s["model"], s["layer"], s["head"]) in chosen]
        assert r["effect"] == pytest.approx(statistics.fmean(picked), abs=1e-6)
        votes = [p["predicted"] for p in found if p["image"] == r["image"]]
        assert r["agreement"] == max(votes.count(v) for v in votes) / len(votes)


@pytest.mark.parametrize("heads", [(), HEADS])
def test_profiles(ask, heads):
    kept = kept_images(ask)
    found = queries.profiles(ask, heads, focus=3).rows(ask.store).to_pylist()
    strengths = [r for r in rows_of(ask.store, "head_strength") if r["model"] in ask.models]
    for r in found[::5]:
        own = [s for s in strengths if s["model"] == r["model"] and (
            not heads or (s["layer"], s["head"]) == (r["layer"], r["head"]))]
        values = [s["hop_strength"][r["hop"]] for s in own if s["image"] in kept]
        if values:
            assert r["mean"] == pytest.approx(statistics.fmean(values), abs=1e-7)
            assert r["low"] <= r["high"]
        else:
            assert r["mean"] is None
        focus = [s["hop_strength"][r["hop"]] for s in own if s["image"] == 3]
        assert r["focus"] == pytest.approx(statistics.fmean(focus), abs=1e-7)
        if heads and len(values) > 1:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
            assert (r["low"], r["high"]) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize("heads", [(), HEADS])
def test_histogram(ask, heads):
    kept = kept_images(ask)
    found = queries.histogram(ask, "hop_entropy", heads).rows(ask.store).to_pylist()
    own = [r for r in rows_of(ask.store, "head_strength") if r["model"] in ask.models
           and (not heads or (r["model"], r["layer"], r["head"]) in heads)]
    (width,) = {r["width"] for r in found}
    low, high = min(r["hop_entropy"] for r in own), max(r["hop_entropy"] for r in own)
    assert math.log2(width).is_integer()
    assert bins.MOST / 4 < (high - low) / width <= bins.MOST
    for r in found:
        inside = [s for s in own if s["model"] == r["model"]
                  and (not heads or (s["layer"], s["head"]) == (r["layer"], r["head"]))
                  and math.floor(s["hop_entropy"] / width) == r["bin"]]
        assert r["everything"] == len(inside) > 0
        assert r["kept"] == sum(s["image"] in kept for s in inside)
    assert sum(r["everything"] for r in found) == len(own)


def test_at_image(ask):
    found = queries.at_image(ask, "hop_entropy", HEADS, 5).rows(ask.store).to_pylist()
    expected = {(r["model"], r["layer"], r["head"]): r["hop_entropy"]
                for r in rows_of(ask.store, "head_strength") if r["image"] == 5}
    assert {(r["model"], r["layer"], r["head"]) for r in found} == set(HEADS)
    for r in found:
        assert r["value"] == pytest.approx(expected[r["model"], r["layer"], r["head"]])


def test_a_model_without_a_classifier_is_named(store):
    ask = Ask(store, ("alpha", "gamma"), Selection())
    rows = queries.head_values(ask, "probability_drop").rows(store)
    assert queries.undefined_models(rows) == ["gamma"]
    assert queries.undefined_models(queries.head_values(ask, "embedding_l2").rows(store)) == []


@pytest.mark.parametrize("column", SUMMARISED, ids=lambda c: c.name)
def test_every_measure_can_be_asked_for(store, column):
    for selection in (Selection(), SELECTIONS["label"]):
        ask = Ask(store, ("alpha", "beta", "gamma"), selection)
        assert queries.head_values(ask, column.name).rows(store).num_rows == 72
        assert queries.overview(ask, column.name).rows(store).num_rows == 180
        queries.histogram(ask, column.name, ()).rows(store)


@pytest.mark.parametrize("name", ["probability_drop; DROP TABLE heads", "nope", ""])
def test_names_are_checked_against_the_schema(store, name):
    ask = Ask(store, MODELS, Selection())
    with pytest.raises((KeyError, ValueError)):
        queries.head_values(ask, name)


@pytest.mark.parametrize(("text", "image"), [
    ("12", 12), ("bird/", 0), ("CAT/0005", 5), ("0007", 7), ("nowhere", None), ("999", None),
    ("%", None), ("'", None)])
def test_find_image(store, text, image):
    found = queries.find_image(text).rows(store)["image"].to_pylist()
    assert found == ([] if image is None else [image])


def test_image_card(store):
    rows = card_queries.image_card(Ask(store, ("alpha", "gamma"), Selection()), 3).rows(store)
    alpha, gamma = rows.to_pylist()
    assert alpha["path"] == gamma["path"] == "fish/0003.png"
    assert alpha["top5"][0]["name"] == alpha["predicted"]
    assert gamma["top5"] is None


@pytest.mark.parametrize("importance", ["probability_drop", "probability", "embedding_l2"])
def test_the_hardest_images(ask, importance):
    kept, chosen = kept_images(ask), set(ask.selection.heads)
    bare = set(MODELS) - {h[0] for h in chosen}
    by_image: dict[int, list[float]] = {}
    for row in rows_of(ask.store, "head_scores"):
        key = (row["model"], row["layer"], row["head"])
        asked = row["model"] in MODELS and (not chosen or row["model"] in bare or key in chosen)
        if asked and row["image"] in kept and row[importance] is not None:
            by_image.setdefault(row["image"], []).append(row[importance])
    means = {image: statistics.fmean(values) for image, values in by_image.items()}
    wanted = sorted(means.values(), reverse=importance != "probability")[:5]
    found = queries.hardest(ask, importance, 5).rows(ask.store).to_pylist()
    assert [r["effect"] for r in found] == pytest.approx(wanted)
    assert [means[r["image"]] for r in found] == pytest.approx(wanted)
