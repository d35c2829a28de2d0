"""What a run will cost is told before it is spent, and is of the right size."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

import headatlas
from precompute import models
from precompute.cost import (
    Cost,
    as_lines,
    calibrate,
    disk,
    in_bytes,
    in_operations,
    in_time,
    laid_out,
    lined_up,
    model_costs,
    total,
)
from precompute.stages import STAGES
from store.reader import open_store
from store.schema import TABLES
from store.series_tables import FILE, MOST_IMAGES
from store.writer import StoreWriter
from tests.precompute.kills import command
from tests.precompute.world import (
    NONE,
    SIZE,
    SOME,
    make_checkpoint,
    make_labels,
    make_pictures,
    run,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("cost")
    make_pictures(home / "images", 9)
    make_labels(home / "images", home / "labels.csv")
    make_checkpoint(home / "a.safetensors", 3)
    return home


def spec(world: Path) -> str:
    return f"vit_tiny_patch16_224@{world / 'a.safetensors'}"


def test_a_plan_is_told_and_nothing_is_done(world: Path, tmp_path: Path,
                                            capfd: pytest.CaptureFixture) -> None:
    argv = command(tmp_path / "store", world / "images", world / "labels.csv", spec(world))[3:]
    assert headatlas.main([*argv, "--plan"]) == 0
    said = capfd.readouterr().err
    assert all(f"a-32px, {name} " in said for name in STAGES)
    assert "together" in said and "FLOP" in said and "done;" not in said
    assert not list((tmp_path / "store").glob("models/*/*/*/*.parquet"))
    assert not list((tmp_path / "store").glob("models/*/samples/*"))


def test_what_is_done_costs_nothing(world: Path, tmp_path: Path) -> None:
    vit = models.load(spec(world), SIZE)
    run(tmp_path / "store", world / "images", spec(world), names=["m"],
        samples=NONE | {"layer": 2, "curves": 2})
    writer = StoreWriter(tmp_path / "store")
    wanted = {"clean": None, "heads": None, **NONE, "layer": 3, "mean": None, "curves": 99}
    left = {cost.name: cost.images for cost in model_costs(writer, "m", vit, wanted, 1, 1)}
    judging = 9 - _ranking(tmp_path / "store")
    assert left == {"m, layer": 1, "m, mean": 9, "m, curves": judging - 2}


def _ranking(store: Path) -> int:
    (count,) = open_store(store).query(
        "SELECT DISTINCT ranking_images AS n FROM pruning_curves WHERE ranking_images IS NOT NULL"
        )["n"].to_pylist()
    return count


def test_operations_are_those_of_the_matrix_products(world: Path) -> None:
    """12 blocks: 12 D^2 multiply-adds a token and 2 T D for attention, twice that in operations;
    beside them the patches and the attention of the class token in no other block."""
    vit = models.load(spec(world), SIZE)
    tokens, dim, patches = 5, 192, 4
    wanted = 2 * (12 * tokens * (12 * dim ** 2 + 2 * tokens * dim) + patches * 3 * 16 * 16 * dim)
    assert calibrate(vit, "tail").operations == pytest.approx(wanted, rel=0.01)


def test_bytes_are_about_those_of_the_files(world: Path, tmp_path: Path) -> None:
    vit = models.load(spec(world), SIZE)
    store = run(tmp_path / "store", world / "images", spec(world), names=["m"], samples=SOME,
                patterns=True)
    for name, stage in STAGES.items():
        images = SOME.get(name, 9)
        files = [f for table in stage.tables for f in store.files[table] if f.parts[-3] == name]
        found = sum(f.stat().st_size for f in files)
        expected = disk(stage, vit, images, len(files) // len(stage.tables))
        assert 0.5 < expected / found < 2, (name, expected, found)
    placed = store.files["head_patterns"]
    assert 0.5 < laid_out(vit, 9, len(placed)) / sum(f.stat().st_size for f in placed) < 2
    file = tmp_path / "store" / "models" / "m" / FILE
    found = sum(array.nbytes for name, array in load_file(file).items()
                if not name.startswith("partial.") and not name.endswith(".count"))
    assert 0.5 < lined_up(vit, 9) / found < 2
    assert lined_up(vit, MOST_IMAGES + 1) == 0


def test_costs_add_up_and_are_aligned() -> None:
    costs = [Cost("m, heads", 1000, 2e15, 4000.0, 5e9), Cost("m, layer", 2, 1e9, 0.25, 500.0)]
    lines = list(as_lines([*costs, total(costs)]))
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["m,", "heads", "1,000", "2.0", "PFLOP", "67", "min", "5.0", "GB"]
    assert lines[-1].split()[:2] == ["together", "1,002"]


@pytest.mark.parametrize(("said", "wanted"), [
    (in_time(0.04), "0.0 s"), (in_time(59.0), "59 s"), (in_time(600.0), "10 min"),
    (in_time(7200.0), "2.0 h"), (in_time(30 * 86400.0), "30 days"), (in_bytes(999.0), "999 B"),
    (in_bytes(1.5e12), "1.5 TB"), (in_operations(4.4e19), "44 EFLOP")])
def test_figures_are_in_units_that_people_use(said: str, wanted: str) -> None:
    assert said == wanted


def test_every_table_of_a_stage_is_in_the_schema() -> None:
    assert all(table in TABLES for stage in STAGES.values() for table in stage.tables)
