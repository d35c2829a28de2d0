"""A store's patterns, laid out: complete, the same whatever happened on the way, and once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from precompute import freshness, patterning
from precompute.class_names import class_names
from precompute.names import RULES
from precompute.patterning import lay_out
from precompute.space import autoencoder, clusters, verdicts
from precompute.space.atlas import Atlas
from precompute.space.coders import divergence
from precompute.space.inputs import means
from store import places
from store.canon import CLASS, KINDS, PATCH
from store.reader import open_store
from store.schema import PATTERN_TABLES
from store.writer import StoreWriter
from tests.precompute.patterns_store import add_images, add_model, add_unit, make_store, shares

MADE = ("head_patterns", "head_places", "pattern_spaces", "pattern_evidence", "pattern_clusters")
HEADS = tuple((layer, head) for layer in range(3) for head in range(3))


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Short fits, few runs, and of the tests one that fits again and one that does not."""
    few = tuple(test for test in verdicts.TESTS
                if test.name in ("held-out images", "same head at another size"))
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((autoencoder, "PASSES", 4), (clusters, "RUNS", 4),
                                    (clusters, "COUNTS", (4, 5)), (patterning, "TESTS", few)):
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two models, laid out. Not to be written to."""
    path = tmp_path_factory.mktemp("laid") / "store"
    lay_out(make_store(path), latent=4)
    return path


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> StoreWriter:
    """A copy to write to."""
    return StoreWriter(Path(shutil.copytree(finished, tmp_path / "store")))


def rows_of(path: Path, *tables: str) -> dict[str, list[dict]]:
    opened = open_store(path)
    keys = {t.name: ", ".join(f'"{key}"' for key in t.keys) for t in PATTERN_TABLES}
    found = {table: opened.query(f"FROM {table} ORDER BY {keys.get(table, 'model, layer, head')}"
                                 ).to_pylist() for table in (tables or (*MADE, "heads"))}
    opened.close()
    return found


def ids_of(path: Path) -> dict[str, str]:
    return {row["kind"]: row["space_id"] for row in rows_of(path, "pattern_spaces")[
        "pattern_spaces"]}


def times_of(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in path.rglob("*.parquet")}


def test_every_pattern_has_its_place(finished: Path) -> None:
    found = rows_of(finished)
    per_image = {(r["model"], r["image"], r["layer"], r["head"], r["kind"])
                 for r in found["head_patterns"]}
    kinds = {"a": list(KINDS), "b": ["patch"]}
    assert per_image == {(m, i, *h, k) for m in kinds for i in range(12) for h in HEADS
                         for k in kinds[m]}
    assert len(found["head_patterns"]) == len(per_image)
    assert {(r["model"], r["layer"], r["head"], r["kind"]) for r in found["head_places"]} == {
        (m, *h, k) for m in kinds for h in HEADS for k in kinds[m]}
    for row in found["head_patterns"] + found["head_places"]:
        assert len(row["latent"]) == len(row["pca"]) == 4
        assert np.isfinite([*row["latent"], *row["pca"]]).all()
        assert None not in row.values()
    assert [r["models"] for r in found["pattern_spaces"]] == [["a"], ["a", "b"]]
    assert not places.lacks_patterns(finished, "a") + places.lacks_patterns(finished, "b")


def test_errors_are_those_of_the_latents_that_are_kept(finished: Path) -> None:
    atlas = Atlas(StoreWriter(finished))
    for kind, space in atlas.spaces.items():
        inputs = means(atlas.store("heads"), KINDS[kind])
        rows = [r for r in rows_of(finished)["head_places"] if r["kind"] == kind]
        for name, latents, error in (("autoencoder", "latent", "error"),
                                     ("pca", "pca", "pca_error")):
            decoded = space.coders[name].decode(np.array([r[latents] for r in rows], np.float32))
            wanted = divergence(KINDS[kind], inputs.shares, decoded)
            assert np.allclose([r[error] for r in rows], wanted, atol=1e-4)


SINK = next(rule.needed for rule in RULES if rule.name == "sink")


def test_heads_and_clusters_agree(finished: Path) -> None:
    found = rows_of(finished)
    of_heads = {(r["model"], r["layer"], r["head"]): r for r in found["heads"]}
    for row in found["head_places"]:
        named = of_heads[row["model"], row["layer"], row["head"]]
        assert named[{"patch": "cluster", "class": "class_cluster"}[row["kind"]]] == row["cluster"]
    assert all(r["class_cluster"] is None for r in found["heads"] if r["model"] == "b")
    for cluster in found["pattern_clusters"]:
        members = [r for r in found["head_places"]
                   if (r["kind"], r["cluster"]) == (cluster["kind"], cluster["cluster"])]
        assert cluster["heads"] == len(members) > 0
        if cluster["kind"] == "patch":
            odd = sum(r["head"] % 2 for r in members) / len(members)
            name, share = ("sink", odd) if odd >= SINK else ("self", 1 - odd)
            assert cluster["name"] == f"{name} ({share:.0%})"
        else:
            shares = np.array([of_heads[r["model"], r["layer"], r["head"]]["class_pattern"]
                               for r in members])
            (name,), names = class_names(shares.mean(0, keepdims=True)), class_names(shares)
            assert cluster["name"] == f"{name} ({names.count(name) / len(names):.0%})"
        assert 0 <= cluster["agreement"] <= 1
        kind = KINDS[cluster["kind"]]
        for group in kind.groups:
            assert sum(cluster["prototype"][group]) == pytest.approx(1, abs=1e-4)


def test_heads_stay_as_they_were_but_for_their_clusters(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store").path
    file = path / "models" / "a" / "heads.parquet"
    before, note = pq.read_table(file), freshness.read_note(file)
    lay_out(StoreWriter(path), latent=3)
    after = pq.read_table(file)
    assert freshness.read_note(file) == note
    both = [name for name in before.column_names if name not in ("cluster", "class_cluster")]
    assert after.select(both).equals(before.select(both)) and after.schema.equals(before.schema)


def test_a_second_run_does_nothing(store: StoreWriter, capsys: pytest.CaptureFixture) -> None:
    before = times_of(store.path)
    lay_out(store)
    lay_out(store, latent=4)
    assert times_of(store.path) == before
    assert not capsys.readouterr().err


class CrashError(Exception):
    """What a test puts in the way."""


def crash(*_: object) -> None:
    raise CrashError


def test_whatever_write_is_the_last_the_next_run_finishes(
        finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run dies before its second write; the rows are those of an undisturbed one."""
    wanted, put = rows_of(finished), StoreWriter.write_file

    def write_one(self: StoreWriter, *args: object) -> None:
        put(self, *args)
        patch.setattr(StoreWriter, "write_file", crash)

    path = make_store(tmp_path / "store").path
    crashes = 0
    while crashes < 100:
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "write_file", write_one)
            try:
                lay_out(StoreWriter(path), latent=4)
                break
            except CrashError:
                crashes += 1
        rows_of(path)  # it opens
    found = rows_of(path)
    assert crashes > 10  # the spaces, 4 parts, 2 x (places, heads), clusters, 4 tests
    assert [table for table in wanted if found[table] != wanted[table]] == []


def test_a_refit_that_dies_leaves_one_space(store: StoreWriter,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids_of(store.path)
    with monkeypatch.context() as patch:
        patch.setattr(patterning, "place_images", crash)
        with pytest.raises(CrashError):
            lay_out(store, latent=3, refit=True)
    after = ids_of(store.path)
    assert set(after) == set(before) and not set(after.values()) & set(before.values())
    assert not rows_of(store.path, "head_patterns")["head_patterns"]  # nothing of the old space
    assert "parts of patterns" in " ".join(places.lacks_patterns(store.path, "a"))
    lay_out(store)
    assert ids_of(store.path) == after
    assert {len(r["latent"]) for r in rows_of(store.path)["head_patterns"]} == {3}
    assert not places.lacks_patterns(store.path, "a")


def test_a_model_that_is_added_is_placed_among_the_others(
        store: StoreWriter, capsys: pytest.CaptureFixture) -> None:
    before, spaces = rows_of(store.path), ids_of(store.path)
    add_model(store, "c", weights="a", side=336)
    looks = {kind.name: shares(kind, 12, len(HEADS), 0) for kind in (PATCH, CLASS)}
    add_unit(store, "c", "00000", HEADS, list(range(6)), {k: v[:6] for k, v in looks.items()})
    lay_out(store)
    after = rows_of(store.path)
    assert ids_of(store.path) == spaces
    assert "placing c in the patch space" in capsys.readouterr().err
    for table in ("head_patterns", "head_places"):
        assert [r for r in after[table] if r["model"] != "c"] == before[table]
    assert sum(r["model"] == "c" for r in after["head_patterns"]) == 2 * 6 * len(HEADS)
    assert sum(r["heads"] for r in after["pattern_clusters"]) == 5 * len(HEADS)
    twins = [r for r in after["pattern_evidence"] if r["test"] == "same head at another size"]
    assert {(r["detail"], r["space"]) for r in twins if r["kind"] == "patch"} == {
        ("a in c", "autoencoder"), ("a in c", "pca")}
    assert all(r["value"] > 0.5 > r["chance"] for r in twins)
    lay_out(store, refit=True)
    assert ids_of(store.path)["patch"] != spaces["patch"]
    assert rows_of(store.path)["pattern_spaces"][1]["models"] == ["a", "b", "c"]


def test_images_that_are_added_are_placed(store: StoreWriter) -> None:
    before, spaces = rows_of(store.path), ids_of(store.path)
    add_images(store, "00002", range(12, 15))
    looks = {kind.name: shares(kind, 15, len(HEADS), 0)[12:] for kind in (PATCH, CLASS)}
    add_unit(store, "a", "00002", HEADS, list(range(12, 15)), looks)
    lay_out(store)
    after = rows_of(store.path)
    assert ids_of(store.path) == spaces
    assert [r for r in after["head_patterns"] if r["image"] < 12] == before["head_patterns"]
    assert len(after["head_patterns"]) == len(before["head_patterns"]) + 2 * 3 * len(HEADS)
    assert all(r["cluster"] is not None for r in after["heads"])  # though `heads` was made again


def test_a_kind_that_comes_later_gets_its_space_then(tmp_path: Path) -> None:
    writer = make_store(tmp_path / "store", ("x", "y"), images=4)
    shutil.rmtree(writer.path / "models" / "x")
    lay_out(writer, latent=3)
    spaces = ids_of(writer.path)
    assert set(spaces) == {"patch"}
    add_model(writer, "z")
    add_unit(writer, "z", "00000", HEADS, [0, 1], {kind.name: shares(kind, 2, len(HEADS), 3)
                                                   for kind in (PATCH, CLASS)})
    lay_out(writer)
    assert ids_of(writer.path)["patch"] == spaces["patch"] and set(ids_of(writer.path)) == set(
        KINDS)
    kinds = {(r["model"], r["kind"]) for r in rows_of(writer.path)["head_patterns"]}
    assert kinds == {("y", "patch"), ("z", "patch"), ("z", "class")}


@pytest.mark.parametrize(("images", "heads"), [
    (1, ((0, 0),)), (1, ((0, 0), (0, 1))), (2, ((0, 0), (1, 0), (1, 1))), (9, ((0, 0),))])
def test_tiny_stores_are_laid_out(tmp_path: Path, images: int, heads: tuple) -> None:
    writer = make_store(tmp_path / "store", ("only",), images, heads)
    lay_out(writer)
    found = rows_of(writer.path)
    assert len(found["head_patterns"]) == images * len(heads) * 2
    assert all(np.isfinite([r["x"], r["y"], r["pca_x"], r["pca_y"], r["error"]]).all()
               for r in found["head_patterns"] + found["head_places"])
    assert all(r["value"] is not None for r in found["pattern_evidence"])
    assert "model held out" not in {r["test"] for r in found["pattern_evidence"]}


def test_heads_without_a_pattern_have_no_place(tmp_path: Path) -> None:
    """Blocks in which the class token alone asks: a class pattern, and no patch pattern."""
    writer = StoreWriter(tmp_path / "store")
    add_images(writer, "00000", range(3))
    add_model(writer, "cait")
    patch = shares(PATCH, 3, 2)
    patch[:, 1] = np.nan
    add_unit(writer, "cait", "00000", ((0, 0), (1, 0)), range(3),
             {"patch": patch, "class": shares(CLASS, 3, 2)})
    lay_out(writer)
    found = rows_of(writer.path)
    assert {(r["kind"], r["layer"]) for r in found["head_patterns"]} == {
        ("patch", 0), ("class", 0), ("class", 1)}
    assert [r["cluster"] for r in found["heads"]] == [0, None]


def test_a_store_without_patterns_is_left_alone(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store")
    add_images(writer, "00000", range(3))
    add_model(writer, "m")
    before = times_of(writer.path)
    lay_out(writer)
    assert times_of(writer.path) == before
