"""The whole way from a folder of images to a store: what is there, once, and stays the same."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from precompute import models
from precompute.curves import QUANTITIES
from precompute.images import decode
from precompute.orders import fractions
from precompute.stages import RANDOM_ORDERS
from precompute.synergy import choose_pairs
from store import canon, places
from store.errors import ImagesError, ModelError, StoreError
from store.reader import open_store
from store.schema import FORMAT, MODES, SUMMARISED
from store.series_tables import FILE
from tests.precompute.kills import command, differing, kill_after
from tests.precompute.vits import reference
from tests.precompute.world import (
    KINDS,
    SIZE,
    SOME,
    all_rows,
    make_checkpoint,
    make_labels,
    make_pictures,
    run,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, labels, two checkpoints (with and without a classifier) and a finished store."""
    home = tmp_path_factory.mktemp("world")
    make_pictures(home / "images")
    make_labels(home / "images", home / "labels.csv")
    (home / "images" / "notes.txt").write_text("no image")
    spec, bare = make_checkpoint(home / "a.safetensors", 3), make_checkpoint(home / "b.safetensors")
    run(home / "store", home / "images", spec, bare, names=["native", "bare"],
        labels=home / "labels.csv", samples=SOME, patterns=True)
    return home


COUNTED_ELSEWHERE = ("rank_agreement", "pattern_evidence", "pattern_clusters")


def _specs(world: Path) -> tuple[str, str]:
    return (f"vit_tiny_patch16_224@{world / 'a.safetensors'}",
            f"vit_tiny_patch16_224@{world / 'b.safetensors'}")


def test_every_grain_is_there_once(world: Path) -> None:
    store = open_store(world / "store")
    found = all_rows(store)
    ablated = 9 + sum(SOME[name] for name in ("mean", "resample", "leave_one_in"))
    orders = {m: len({(r["measure"], r["order"]) for r in found["pruning_points"]
                      if r["model"] == m}) for m in ("native", "bare")}
    steps = len(fractions(36))
    pairs = len({(r["layer"], r["head"], r["other_layer"], r["other_head"])
                 for r in found["pair_scores"]})
    assert min(orders.values()) > 20 and pairs > 28
    assert {name: len(rows) for name, rows in found.items() if name not in COUNTED_ELSEWHERE} == {
        "models": 2, "images": 9, "predictions": 18, "embeddings": 18, "layers": 2 * 12,
        "head_scores": 2 * ablated * 36, "head_strength": 2 * 9 * 36, "heads": 2 * 36,
        "layer_scores": 2 * SOME["layer"] * 12, "head_ablations": 2 * 4 * 36,
        "partial_pruning": 2 * SOME["partial"] * 36 * len(MODES),
        "pruning_points": SOME["curves"] * sum(orders.values()) * steps,
        "pruning_curves": sum(orders.values()) * (steps + 1),
        "pruning_areas": sum(n - RANDOM_ORDERS for n in orders.values()) * len(QUANTITIES),
        "pair_scores": SOME["pairs"] * sum(len(choose_pairs(store, m)) for m in orders),
        "head_pairs": sum(len(choose_pairs(store, m)) for m in orders),
        "pattern_inputs": 2 * 9 * 36, "attention": 2 * SOME["attention"] * 36,
        "pattern_spaces": len(canon.KINDS), "head_patterns": 2 * 9 * 36 * len(canon.KINDS),
        "head_places": 2 * 36 * len(canon.KINDS), "head_matches": 2 * 36, FILE: 2}
    assert all(found[name] for name in COUNTED_ELSEWHERE)
    assert store.query("SELECT path FROM images ORDER BY image")["path"].to_pylist() == sorted(
        ["000.jpg", "001.jpg", "002.jpg", "004.jpg", "005.jpg", "006.jpg", "008.jpg",
         "deep/er/003.png", "deep/er/007.png"])


def test_models_are_described(world: Path) -> None:
    native, bare = sorted(all_rows(open_store(world / "store"))["models"],
                          key=lambda r: r["model"] != "native")
    assert (native["classifier"], native["classes"]) == ("native", 3)
    assert native["accuracy"] is None  # its classes are 0, 1, 2, and no label is called that
    assert (bare["classifier"], bare["classes"]) == ("probe", 3)
    assert 0 <= bare["accuracy"] <= 1
    assert (native["grid_h"], native["grid_w"], native["image_h"]) == (2, 2, 32)


def test_scores_are_those_of_a_full_pass_per_head(world: Path) -> None:
    """From the file on disk to `embedding_l2`, by a way of its own."""
    store = open_store(world / "store")
    vit = models.load(_specs(world)[0], SIZE)
    for image, path in enumerate(["000.jpg", "001.jpg"]):
        content = (world / "images" / path).read_bytes()
        pixels = vit.transform(decode(content, "RGB", path))[None]
        with torch.no_grad():
            clean = vit.model.forward_head(vit.model.forward_features(pixels), pre_logits=True)
        for layer, head in ((0, 0), (5, 2), (11, 1)):
            wanted = reference(vit.model, pixels, layer, head)
            effect = ((wanted - clean).norm() / clean.norm()).item()
            (found,) = store.query(
                "SELECT embedding_l2 FROM head_scores WHERE model = 'native' AND image = ? "
                "AND layer = ? AND head = ? AND ablation = 'zero'",
                [image, layer, head])["embedding_l2"].to_pylist()
            assert effect > 1e-3
            assert found == pytest.approx(effect, rel=2e-3)


def test_the_probe_judges_every_image_unseen(world: Path) -> None:
    rows = open_store(world / "store").query(
        "SELECT predicted, correct, label, probability, true_probability, top5 "
        "FROM predictions JOIN images USING (image) WHERE model = 'bare'").to_pylist()
    for row in rows:
        assert row["predicted"] in KINDS
        assert row["correct"] == (row["predicted"] == row["label"])
        assert row["top5"][0]["name"] == row["predicted"]
        assert sum(t["probability"] for t in row["top5"]) == pytest.approx(1)


def test_summaries_are_means_and_medians_of_the_rows(world: Path) -> None:
    store = open_store(world / "store")
    for column in ("probability_drop", "flip", "embedding_l2", "hop_entropy", "nmi"):
        rows = store.query(
            f"SELECT avg({column}::DOUBLE) m, median({column}::DOUBLE) d, "
            f"any_value({column}_mean) hm, any_value({column}_median) hd, "
            f"any_value({column}_low) lo, any_value({column}_high) hi FROM head_scores "
            "JOIN head_strength USING (model, image, layer, head) "
            "JOIN heads USING (model, layer, head) WHERE ablation = 'zero' "
            "GROUP BY model, layer, head").to_pylist()
        for r in rows:
            assert r["hm"] == pytest.approx(r["m"], abs=1e-6)
            assert r["hd"] == pytest.approx(r["d"], abs=1e-6)
            assert r["lo"] - 1e-6 <= r["hm"] <= r["hi"] + 1e-6


def test_no_measure_is_missing_where_it_is_defined(world: Path) -> None:
    store = open_store(world / "store")
    never = {"register_share"}
    for m in SUMMARISED:
        (known,) = store.query(f"SELECT count({m.name}_mean) AS n FROM heads "
                               "WHERE model = 'bare'")["n"].to_pylist()
        assert known == (0 if m.name in never else 36), m.name


def test_running_again_does_nothing_again(world: Path) -> None:
    before = _stamps(world / "store")
    run(world / "store", world / "images", *_specs(world), names=["native", "bare"],
        labels=world / "labels.csv")
    assert _stamps(world / "store") == before


def _stamps(store: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in store.rglob("*.parquet")}


def test_adding_a_model_and_images_gives_every_model_every_image(world: Path, tmp_path: Path,
                                                                ) -> None:
    images = make_pictures(tmp_path / "images", 5)
    spec, bare = _specs(world)
    first = all_rows(run(tmp_path / "store", images, spec, names=["one"]))
    make_pictures(images, 3, start=5)
    second = all_rows(run(tmp_path / "store", images, bare, names=["two"]))
    assert len(second["images"]) == 8
    for table in ("head_scores", "embeddings", "predictions"):
        counts = {m: sum(r["model"] == m for r in second[table]) for m in ("one", "two")}
        assert counts["one"] == counts["two"] > 0
    kept = [r for r in second["head_scores"] if r["model"] == "one" and r["image"] < 5]
    assert kept == first["head_scores"]


def test_limit_takes_the_first_readable_images(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 6)
    (images / "000.jpg").write_bytes(b"no picture")
    (images / "001.jpg").write_bytes((images / "002.jpg").read_bytes()[:200])
    store = run(tmp_path / "store", images, _specs(world)[0], limit=2)
    assert store.query("SELECT path FROM images ORDER BY image")["path"].to_pylist() == [
        "002.jpg", "004.jpg"]


def test_unreadable_images_are_reported_counted_and_skipped(
        world: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    images = make_pictures(tmp_path / "images", 3)
    for i in range(8):
        (images / f"bad{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    store = run(tmp_path / "store", images, _specs(world)[0])
    said = capfd.readouterr().err
    assert "bad0.png" in said and "and 3 more" in said and "8 unreadable" in said
    assert store.query("SELECT count(*) AS n FROM images")["n"].to_pylist() == [3]


def test_a_run_with_no_image_left_fails_and_leaves_nothing(world: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(ImagesError, match="none of the 1 images"):
        run(tmp_path / "store", tmp_path / "images", _specs(world)[0])
    assert not (tmp_path / "store").exists()


def test_an_image_that_changed_is_noticed(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 4)
    spec, bare = _specs(world)
    run(tmp_path / "store", images, spec)
    shutil.copy(images / "000.jpg", images / "001.jpg")
    with pytest.raises(ImagesError, match="001.jpg is no longer the image"):
        run(tmp_path / "store", images, bare)


def test_a_name_belongs_to_one_model(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 2)
    spec, bare = _specs(world)
    run(tmp_path / "store", images, spec, names=["same"])
    with pytest.raises(ModelError, match="already has a model named 'same'"):
        run(tmp_path / "store", images, bare, names=["same"])
    with pytest.raises(ModelError, match="two models would be called"):
        run(tmp_path / "store", images, spec, spec)
    run(tmp_path / "store", images, spec, names=["same"])


NAME = "odd/na'me [x] <b>%2F*? ü"


def test_any_name_and_any_folder_will_do(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "im'ages [a]", 2)
    store = run(tmp_path / "st'ore [b]*", images, _specs(world)[0], names=[NAME])
    assert store.query("SELECT DISTINCT model FROM head_scores")["model"].to_pylist() == [NAME]


def test_one_image_is_enough(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 1)
    store = run(tmp_path / "store", images, *_specs(world))
    assert store.query("SELECT count(*) AS n FROM heads")["n"].to_pylist() == [72]


@pytest.mark.parametrize(("content", "says"), [
    ("file,kind\na.jpg,cat\n", "no column image or label"),
    ("image,label\nelse.jpg,cat\n", "does not match"),
    ("image,label\n000.jpg,cat\n000.jpg,dog\n", "both 'cat' and 'dog'"),
    ("image,label\n", "labels no image"), ("", "no column")])
def test_labels_that_do_not_match_are_refused(world: Path, tmp_path: Path, content: str,
                                              says: str) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(ImagesError, match=says):
        run(tmp_path / "store", world / "images", _specs(world)[0], labels=tmp_path / "labels.csv")
    assert not (tmp_path / "store").exists()


def test_labels_are_fixed_once_an_image_is_in_the_store(world: Path, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", 3)
    labels = make_labels(images, tmp_path / "labels.csv")
    run(tmp_path / "store", images, _specs(world)[0])
    with pytest.raises(ImagesError, match="do not match the store's"):
        run(tmp_path / "store", images, _specs(world)[0], labels=labels)


def test_another_version_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "store", tmp_path / "store")
    marker = tmp_path / "store" / places.MARKER
    marker.write_text(marker.read_text().replace(f": {FORMAT}", ": 99"))
    with pytest.raises(StoreError, match="has format 99"):
        run(tmp_path / "store", world / "images", _specs(world)[0])


def test_a_folder_with_other_things_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(StoreError, match="no store and not empty"):
        run(tmp_path / "mine", world / "images", _specs(world)[0])
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_killed_at_any_moment_it_completes_to_the_same_rows(world: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, each a little further on; then the rows are those of a run that
    nobody disturbed."""
    images = make_pictures(tmp_path / "images", 24)
    labels = make_labels(images, tmp_path / "labels.csv")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    asked = command(killed, images, labels, _specs(world)[1])
    rng = random.Random(0)
    kills = sum(kill_after(asked, killed, more, rng.uniform(0, 0.05)) for more in (0, 1, 3, 5, 12))
    assert kills >= 3, "it was through before it could be killed"
    finishing = [subprocess.Popen(command(store, images, labels, _specs(world)[1]),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                 for store in (killed, killed, whole)]  # two on one store, at the same time
    assert [process.wait() for process in finishing] == [0, 0, 0]
    assert differing(killed, whole) == []
    assert sorted(f.name for f in (killed / "tmp").iterdir()) == [
        "lock", "matches", "patterns", "series"]


def test_a_full_disk_is_one_clear_line_and_can_be_resumed(world: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        images = make_pictures(tmp_path / "images", 24)
        labels = make_labels(images, tmp_path / "labels.csv")
        asked = command(small / "store", images, labels, _specs(world)[1])
        full = subprocess.run(asked, capture_output=True, text=True)
        assert full.returncode == 2
        assert "the disk is full" in full.stderr.splitlines()[-1]
        assert "Traceback" not in full.stderr
        all_rows(open_store(small / "store"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        subprocess.run(asked, check=True, capture_output=True)
        subprocess.run(command(tmp_path / "whole", images, labels, _specs(world)[1]), check=True,
                       capture_output=True)
        assert all_rows(open_store(small / "store")) == all_rows(open_store(tmp_path / "whole"))
    finally:
        subprocess.run(["umount", str(small)], check=False)


