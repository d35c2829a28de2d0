"""Sampled stages: on exactly as many images as asked for, chosen once, extended without repeats."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from precompute.orders import split
from precompute.samples import lacking, read, register, spread, unit_size
from precompute.stages import DERIVED, ROWS, SAMPLED, STAGES
from store import places
from store.reader import Store, open_store
from store.schema import TABLES
from store.writer import StoreWriter
from tests.precompute.world import NONE, SOME, all_rows, make_checkpoint, make_pictures, run

NAME = "m"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stages")
    make_pictures(home / "images", 12)
    make_checkpoint(home / "a.safetensors", 3)
    again(home, home / "plain", NONE)
    return home


def again(world: Path, store: Path, samples: dict, **options: object) -> Store:
    return run(store, world / "images", f"vit_tiny_patch16_224@{world / 'a.safetensors'}",
               names=[NAME], samples=NONE | samples, **options)


def images_of(store: Store, table: str, where: str = "true") -> set[int]:
    return set(store.query(f"SELECT DISTINCT image FROM {table} WHERE {where}"
                           )["image"].to_pylist())


def images_by_stage(store: Store) -> dict[str, set[int]]:
    """The images that each sampled stage's rows are of."""
    return {name: images_of(store, STAGES[name].tables[0],
                            f"ablation = '{name}'" if STAGES[name].tables == ("head_scores",)
                            else "true") for name in SAMPLED}


def test_as_many_images_as_asked_for_spread_by_their_hashes(world: Path, tmp_path: Path) -> None:
    store = again(world, tmp_path / "store", SOME)
    found = images_by_stage(store)
    assert {name: len(images) for name, images in found.items()} == SOME
    by_hash = store.query("SELECT image FROM images ORDER BY sha256")["image"].to_pylist()
    for name in set(SAMPLED) - {"curves"}:
        assert found[name] == set(by_hash[:SOME[name]]), name


def test_more_are_added_to_those_that_are_there(world: Path, tmp_path: Path) -> None:
    first = again(world, tmp_path / "store", {"mean": 2, "layer": 4})
    kept = first.query("FROM head_scores WHERE ablation = 'mean' ORDER BY ALL").to_pylist()
    before = images_by_stage(first)
    second = again(world, tmp_path / "store", {"mean": 7, "layer": 3, "pairs": None})
    after = images_by_stage(second)
    assert len(after["mean"]) == 7 and before["mean"] < after["mean"]
    assert after["layer"] == before["layer"]
    assert after["pairs"] == images_of(second, "images")
    rows = second.query("SELECT * FROM head_scores WHERE ablation = 'mean' ORDER BY ALL")
    assert rows.num_rows == 7 * 36
    assert [r for r in rows.to_pylist() if r["image"] in before["mean"]] == kept


def test_more_images_than_there_are_is_all(world: Path, tmp_path: Path) -> None:
    store = again(world, tmp_path / "store", {"layer": 1000})
    assert images_by_stage(store)["layer"] == images_of(store, "images")


def test_new_images_do_not_change_a_sample_that_is_full(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 6)
    spec = f"vit_tiny_patch16_224@{world / 'a.safetensors'}"
    options = {"names": [NAME], "samples": NONE | {"layer": 4, "mean": None}}
    before = images_by_stage(run(tmp_path / "store", images, spec, **options))
    make_pictures(images, 6, start=6)
    after = images_by_stage(run(tmp_path / "store", images, spec, **options))
    assert after["layer"] == before["layer"]
    assert len(before["mean"]) == 6 and len(after["mean"]) == 12


def test_two_runs_at_once_register_one_sample(world: Path, tmp_path: Path) -> None:
    again(world, tmp_path / "store", {})
    mine, other = StoreWriter(tmp_path / "store"), StoreWriter(tmp_path / "store")
    candidates = spread(open_store(tmp_path / "store"))
    first = register(mine, NAME, "layer", candidates, 5, {"x": 1})
    second = register(other, NAME, "layer", candidates, 9, {"x": 2})
    assert first.images < second.images and len(second.images) == 9
    assert second.fixed == {"x": 1}
    assert sum(len(unit) for unit in second.units.values()) == 9
    assert register(mine, NAME, "layer", candidates, 9) == second == read(mine, NAME, "layer")
    assert lacking(second, candidates, None) == candidates[9:]


def test_judges_have_not_ranked(world: Path, tmp_path: Path) -> None:
    store = again(world, tmp_path / "store", {"curves": None})
    rows = store.query("SELECT image, sha256 FROM images").to_pylist()
    ranking, judging = split([(r["image"], r["sha256"]) for r in rows])
    assert images_of(store, "pruning_points") == set(judging)
    assert not set(judging) & set(ranking)
    counted = store.query("SELECT DISTINCT images, ranking_images FROM pruning_curves "
                          "WHERE measure <> 'random'").to_pylist()
    assert counted == [{"images": len(judging), "ranking_images": len(ranking)}]


def test_what_stands_in_for_a_head_is_settled_once(world: Path, tmp_path: Path,
                                                  capfd: pytest.CaptureFixture) -> None:
    options = {"reference": 5, "draws": 2}
    again(world, tmp_path / "store", {"resample": 2}, **options)
    home = places.model_folder(tmp_path / "store", NAME)
    before = [hashlib.sha256((home / f"reference.{end}").read_bytes()).digest()
              for end in ("json", "npz")]
    store = again(world, tmp_path / "store", {"resample": 4, "mean": 2}, reference=9, draws=3)
    after = [hashlib.sha256((home / f"reference.{end}").read_bytes()).digest()
             for end in ("json", "npz")]
    assert before == after
    assert "resamples 2 times for each image, as when it was begun, not 3" in capfd.readouterr().err
    assert store.query("SELECT reference_images, resample_draws FROM models").to_pylist() == [
        {"reference_images": 5, "resample_draws": 2}]


def test_one_image_has_no_donors_and_no_judge(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 1)
    store = run(tmp_path / "store", images, f"vit_tiny_patch16_224@{world / 'a.safetensors'}",
                names=[NAME], samples=dict.fromkeys(SOME))
    found = images_by_stage(store)
    assert found.pop("resample") == found.pop("curves") == set()
    assert set(map(tuple, found.values())) == {(0,)}


def test_a_derived_table_is_made_again_when_its_units_change(world: Path, tmp_path: Path) -> None:
    def stamps() -> dict[str, int]:
        home = places.model_folder(tmp_path / "store", NAME)
        return {derived.table: file.stat().st_mtime_ns for derived in DERIVED
                if (file := home / f"{derived.table}.parquet").exists()}

    again(world, tmp_path / "store", {"mean": 2, "pairs": 2})
    first = stamps()
    assert set(first) == {"heads", "head_ablations", "rank_agreement", "head_pairs"}
    again(world, tmp_path / "store", {"mean": 2, "pairs": 2})
    assert stamps() == first
    again(world, tmp_path / "store", {"mean": 3})
    second = stamps()
    assert {name for name in first if first[name] != second[name]} == {
        "head_ablations", "rank_agreement"}


def test_heads_are_summarised_again_when_attention_is_kept(world: Path, tmp_path: Path) -> None:
    def columns(store: Store) -> list[dict]:
        return store.query("SELECT content_images, content_dependence, pattern FROM heads "
                           "ORDER BY layer, head").to_pylist()

    before = columns(again(world, tmp_path / "store", {}))
    store = again(world, tmp_path / "store", {"attention": 5})
    after = columns(store)
    assert {(r["content_images"], r["content_dependence"]) for r in before} == {(None, None)}
    assert {r["content_images"] for r in after} == {5}
    assert all(r["content_dependence"] >= 0 for r in after)
    assert [r["pattern"] for r in before] == [r["pattern"] for r in after]
    units = places.read_sample(store.path, NAME, "attention")["units"].values()
    assert max(map(len, units)) <= STAGES["attention"].largest


def test_a_model_that_is_not_named_keeps_its_samples(world: Path, tmp_path: Path) -> None:
    again(world, tmp_path / "store", {"layer": 3})
    unit = next((places.model_folder(tmp_path / "store", NAME) / "layer").iterdir())
    StoreWriter(tmp_path / "store").set_aside(unit)
    other = make_checkpoint(tmp_path / "c.safetensors", 3, seed=1)
    store = run(tmp_path / "store", world / "images", other, names=["other"],
                samples=NONE | {"layer": 6})
    rows = {r["model"]: r["n"] for r in store.query(
        "SELECT model, count(DISTINCT image) AS n FROM layer_scores GROUP BY model").to_pylist()}
    assert rows == {NAME: 3, "other": 6}


@pytest.mark.parametrize(("images", "size"), [(1, 4), (32, 4), (1000, 16), (1_300_000, 512)])
def test_units_feed_many_workers_and_are_few_files(images: int, size: int) -> None:
    assert unit_size(images) == size
    assert unit_size(images, largest=16) == min(size, 16)


def test_every_stage_has_what_it_writes(world: Path) -> None:
    rows = all_rows(open_store(world / "plain"))
    assert all(not rows[table] for name in SAMPLED for table in STAGES[name].tables
               if table != "head_scores")
    assert {t for stage in STAGES.values() for t in stage.tables} == set(ROWS) <= set(TABLES)
    assert [name for name, stage in STAGES.items() if stage.images is None] == list(
        places.OVER_ALL)
