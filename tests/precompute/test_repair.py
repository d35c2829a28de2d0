"""A store with damaged files opens, says what is damaged, and is completed to the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import headatlas
from precompute.repair import RESTS_ON
from store import sums
from store.errors import ImagesError
from store.reader import Store, open_store
from tests.precompute.world import SOME, all_rows, make_checkpoint, make_labels, make_pictures, run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("repair")
    make_pictures(home / "images", 20)
    make_labels(home / "images", home / "labels.csv")
    make_checkpoint(home / "b.safetensors")
    again(home, home / "store")
    return home


def again(world: Path, store: Path) -> Store:
    return run(store, world / "images", f"vit_tiny_patch16_224@{world / 'b.safetensors'}",
               names=["m"], labels=world / "labels.csv", samples=SOME, patterns=True)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def flip(file: Path) -> None:
    """Three bits of the data, where no reader looks unless it reads the rows."""
    content = bytearray(file.read_bytes())
    for at in (len(content) // 3, len(content) // 2, 40 % len(content)):
        content[at] ^= 0x10
    file.write_bytes(bytes(content))


def empty(file: Path) -> None:
    file.write_bytes(b"")


Damage = tuple[Callable[[Path], None], str]

ROUNDS: dict[str, list[Damage]] = {
    "units": [(cut, "models/m/heads/00000/head_scores.parquet"),
              (flip, "models/m/heads/00001/head_strength.parquet"),
              (flip, "models/m/clean/00001/embeddings.parquet"),
              (empty, "models/m/layer/00000/layer_scores.parquet"),
              (Path.unlink, "models/m/partial/00000/partial_pruning.parquet"),
              (flip, "models/m/curves/00000/pruning_points.parquet")],
    "derived tables": [(cut, "models/m/heads.parquet"), (flip, "models/m/predictions.parquet"),
                       (empty, "models/m/rank_agreement.parquet"),
                       (flip, "models/m/pruning_areas.parquet"), (cut, "models/m/layers.parquet")],
    "the model": [(flip, "models/m/model.parquet"), (flip, "models/m/probe.npz"),
                  (flip, "models/m/reference.npz")],
    "registrations": [(cut, "models/m/reference.json"), (empty, "models/m/samples/layer.json"),
                      (flip, "models/m/samples/curves.json")],
    "images": [(cut, "images/00000.parquet"), (flip, "images/00001.parquet")],
    "patterns": [(cut, "models/m/attention/00000/attention.parquet"),
                 (flip, "models/m/heads/00000/pattern_inputs.parquet"),
                 (empty, "models/m/patterns/00001.parquet"),
                 (flip, "models/m/head_places.parquet"),
                 (cut, "patterns/pattern_clusters.parquet")],
    "the pattern spaces": [(flip, "patterns/pattern_spaces.parquet")],
    "lists of images": [(flip, "images/00000.json"), (flip, "images/00001.parquet")],
}


@pytest.mark.parametrize("round", ROUNDS)
def test_damage_is_said_and_made_good(round: str, world: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture) -> None:
    store, damaged = tmp_path / "store", ROUNDS[round]
    shutil.copytree(world / "store", store)
    for harm, name in damaged:
        harm(store / name)
    open_store(store).query("SELECT count(*) FROM head_scores")
    assert headatlas.main(["info", "--store", str(store)]) == 0
    said = capsys.readouterr().out
    assert all(f"damaged: {name}" in said for _, name in damaged)
    assert said.count("damaged: ") == len(damaged)
    assert all_rows(again(world, store)) == all_rows(open_store(world / "store"))
    assert headatlas.main(["info", "--store", str(store)]) == 0
    said = capsys.readouterr().out
    assert "damaged: " not in said and "incomplete" not in said
    for harm, name in damaged:
        assert harm is Path.unlink or list((store / "damaged").glob(f"*/{name}"))


def test_a_file_that_cannot_be_read_is_left_out(world: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(world / "store", store)
    cut(store / "models/m/heads/00000/head_scores.parquet")
    (store / "models/m/heads/00001/head_strength.parquet").write_bytes(
        (store / "models/m/heads.parquet").read_bytes())
    found = open_store(store)
    assert [f.relative_to(store).as_posix() for f in found.damaged] == [
        "models/m/heads/00000/head_scores.parquet", "models/m/heads/00001/head_strength.parquet"]
    left = found.query("SELECT DISTINCT image FROM head_scores WHERE ablation = 'zero' ORDER BY 1")
    assert left["image"].to_pylist() == list(range(16, 20))
    again(world, store)
    assert found.refresh() and not found.damaged


def test_an_image_of_a_lost_part_that_is_gone_is_named(world: Path, tmp_path: Path) -> None:
    images, store = tmp_path / "images", tmp_path / "store"
    shutil.copytree(world / "images", images)
    shutil.copytree(world / "store", store)
    make_pictures(tmp_path / "other", 1, start=77)
    shutil.copy(tmp_path / "other" / "077.jpg", images / "000.jpg")
    cut(store / "images" / "00000.parquet")
    with pytest.raises(ImagesError, match="000.jpg is no longer the image"):
        run(store, images, f"vit_tiny_patch16_224@{world / 'b.safetensors'}", names=["m"])


def test_a_sound_store_is_found_sound(world: Path) -> None:
    assert sums.find_damage(world / "store") == []
    assert sums.size_of(world / "store") > 10_000


def test_a_lost_checksum_is_no_damage(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "store", tmp_path / "store")
    copy = tmp_path / "store"
    for listing in [*copy.rglob(sums.SUMS), *copy.rglob("*.sha256")]:
        listing.unlink()
    assert sums.find_damage(copy) == []


def test_what_rests_on_a_file_is_there(world: Path) -> None:
    home = world / "store" / "models" / "m"
    for name, others in RESTS_ON.items():
        assert (home / name).is_file() and all((home / other).exists() for other in others)
