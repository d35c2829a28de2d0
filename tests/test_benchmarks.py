"""The benchmarks run, on stores of a few rows: what they print is for people to judge."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import alternatives, serving
from benchmarks.hand import FEW, HALF, MOST, ROUND, Hand, ring
from benchmarks.page import InProcess, Page
from benchmarks.synthetic_store import INPUTS, add_size, make_store, size_of
from benchmarks.synthetic_world import Nature, Size, World, importance
from dashapp.app import create_app
from store import places
from store.reader import Store, open_store
from store.schema import TABLES
from store.selection import Region
from store.sums import find_damage

SIZE = Size(models=2, layers=1, heads=3, images=36, shard=20)
EMPTY = {"pruning_points", "pair_scores", "head_pairs"}
"""Tables of a synthetic store without rows, as its docstring says."""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("benchmarks") / "scale", SIZE)


@pytest.fixture(scope="module")
def store(path) -> Store:
    return open_store(path)


@pytest.fixture
def hand(path, store) -> Hand:
    page = Page(InProcess(create_app(path).server))
    list(page.open())
    return Hand(store, page)


def test_a_synthetic_store_is_whole(path, store):
    assert store.damaged == [] and find_damage(path) == []
    for model in SIZE.names:
        assert places.lacks(path, model) + places.lacks_patterns(path, model) == []
    counts = {name: store.query(f"SELECT count(*) AS n FROM {name}")["n"].to_pylist()[0]
              for name in TABLES}
    assert {name for name, rows in counts.items() if not rows} == EMPTY


def test_rows_of_heads_and_images_are_all_there_once(store):
    rows = SIZE.models * SIZE.all_heads * SIZE.images
    for table, only, wanted in (("head_scores", "ablation = 'zero'", rows),
                                ("head_strength", "true", rows),
                                ("head_patterns", "kind = 'class'", rows),
                                ("pattern_inputs", "true", rows // SIZE.images * INPUTS)):
        keys = ", ".join(key for key in TABLES[table].keys if key not in ("ablation", "kind"))
        (found,) = store.query(f"SELECT count(*) AS n, count(DISTINCT ({keys})) AS once "
                               f"FROM {table} WHERE {only}").to_pylist()
        assert found == {"n": wanted, "once": wanted}, table


def test_numbers_keep_what_their_definitions_promise(store):
    (found,) = store.query("""
SELECT max(abs(list_sum(hop_mass) + prefix_share - 1)) AS mass,
       min(list_min(hop_strength)) AS least, max(hop_entropy - ln(len(hop_strength))) AS entropy
FROM head_strength""").to_pylist()
    assert found["mass"] < 1e-5 and found["least"] >= 0 and found["entropy"] <= 1e-6
    (found,) = store.query("""
SELECT max(abs(p.probability - s.probability - s.probability_drop)) AS drop,
       min(s.probability) AS low, max(s.probability) AS high, count(*) AS n
FROM head_scores s JOIN predictions p USING (model, image)""").to_pylist()
    assert found["drop"] < 1e-6 and found["low"] >= 0 and found["high"] <= 1 and found["n"]


def test_a_seed_makes_the_same_numbers_and_another_makes_others():
    def drops(seed: int) -> np.ndarray:
        nature = Nature(World(replace(SIZE, seed=seed)), 1)
        return importance(nature, np.arange(5), nature.rng(6, 0))["probability_drop"]

    assert np.array_equal(drops(0), drops(0)) and not np.array_equal(drops(0), drops(1))


@pytest.mark.parametrize("share", [FEW, HALF, MOST])
def test_a_lasso_holds_about_its_share_of_the_images(store, hand, share):
    corners = ring(store, hand.rng, SIZE.names[0], share)
    region = Region(SIZE.names[0], tuple((x, y) for x, y in corners))
    inside = alternatives.queries.inside(store, region)
    assert abs(len(inside) / SIZE.images - share) < 0.1


def test_every_gesture_changes_the_page_and_no_view_fails(hand):
    hand.show_all()
    for name, gesture in serving.play(hand):
        assert len(gesture.answers) > 1, name  # the state's callback, and others that it set off
        assert sum(a.raw > 0 for a in gesture.answers) > 1, name
        assert not gesture.failed, name
        assert gesture.sent < gesture.raw, name


def test_a_lasso_reaches_the_state_and_the_views(hand):
    before = hand.page.values["key-matrix", "data"]
    hand.lasso(HALF)
    assert "lasso=" in hand.page.values["state", "data"]
    assert hand.page.values["key-matrix", "data"] != before


@pytest.mark.parametrize(("values", "share", "wanted"), [
    ([3, 1, 2], 0.5, 2), ([1], 0.95, 1), (list(range(1, 101)), 0.95, 95), ([1, 2], 0.95, 2)])
def test_percentile_is_a_value_that_was_measured(values, share, wanted):
    assert serving.percentile(values, share) == wanted


def test_the_alternatives_count_what_ours_counts(path, store):
    """Sums over what each way answers, for the question that all can be compared in."""
    lasso = alternatives.Ours(store).lasso()
    images = alternatives.queries.inside(store, lasso.regions[0])
    ask = alternatives.Ask(store, tuple(SIZE.names), lasso)
    ours = alternatives.queries.head_values(ask, alternatives.IMPORTANCE).rows(store)
    sql, params = alternatives.over_the_store(store).questions[0], {"images": images}
    theirs = {(r["model"], r["layer"], r["head"]): r["value"]
              for r in store.query(sql, params).to_pylist()}
    assert {(r["model"], r["layer"], r["head"]): pytest.approx(r["value"], abs=1e-6)
            for r in ours.to_pylist()} == theirs


def test_every_figure_is_printed(path, capsys, monkeypatch):
    few = ROUND[3:5]
    monkeypatch.setattr(serving, "ROUND", few)
    monkeypatch.setattr(serving, "alternatives", lambda store, pandas: "ratios")
    serving.main(["--store", str(path), "--rounds", "1"])
    said = capsys.readouterr().out
    assert "SOME VIEWS FAILED" not in said
    for figure in (*(name for name, _ in few), "first page", "memory of the serving", "ratios"):
        assert figure in said


def test_every_way_is_compared_with_ours(path, tmp_path):
    mine = shutil.copytree(path, tmp_path / "scale")
    found = alternatives.compare(mine, 1)
    assert [one.way for one in found][:3] == [
        "ours", "DuckDB, one unsorted file", "DuckDB, the store's rows"]
    assert all(one.means > 0 and one.everything > 0 for one in found)
    assert (tmp_path / "scale-unsorted.parquet").exists()


def test_sizes_are_read_from_the_command_line():
    parser = argparse.ArgumentParser()
    add_size(parser)
    asked = [f"--{name}={value}" for name, value in vars(SIZE).items()]
    assert size_of(parser.parse_args(asked)) == SIZE
    assert size_of(parser.parse_args([])) == Size()
