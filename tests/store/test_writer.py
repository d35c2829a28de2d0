"""A store that opens whatever happened while it was written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from store import places, sums
from store.errors import StoreError
from store.reader import open_store
from store.schema import TABLES
from store.writer import StoreWriter, to_table

UNIT = "models/m/heads/00000"


def _rows(table: str, **values: object) -> pa.Table:
    return to_table(table, {c.name: [values.get(c.name)] for c in TABLES[table].columns})


def _scores(head: int) -> dict[str, pa.Table]:
    return {"head_scores": _rows("head_scores", model="m", image=0, layer=0, head=head)}


def test_an_empty_store_opens_with_every_table(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s")
    store = open_store(tmp_path / "s")
    for name, table in TABLES.items():
        found = store.query(f"SELECT * FROM {name}")
        assert found.num_rows == 0
        assert found.column_names == [c.name for c in table.columns]


def test_a_unit_is_done_or_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StoreWriter(tmp_path / "s")
    real, calls = Path.rename, []

    def crash(self: Path, target: Path) -> Path:
        calls.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        writer.write_unit(UNIT, _scores(1))
    assert calls and open_store(tmp_path / "s").query("FROM head_scores").num_rows == 0
    monkeypatch.setattr(Path, "rename", real)
    writer.write_unit(UNIT, _scores(1))
    assert open_store(tmp_path / "s").query("FROM head_scores")["head"].to_pylist() == [1]


def test_who_comes_second_with_a_unit_changes_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    writer.write_unit(UNIT, _scores(1))
    StoreWriter(tmp_path / "s").write_unit(UNIT, _scores(2))
    assert open_store(tmp_path / "s").query("FROM head_scores")["head"].to_pylist() == [1]
    assert not [f for f in (tmp_path / "s" / "tmp").iterdir() if f.is_dir()]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    for accuracy in (None, 0.5):
        writer.write_file("models/m/model.parquet", _rows("models", model="m", accuracy=accuracy))
    assert open_store(tmp_path / "s").query("FROM models")["accuracy"].to_pylist() == [0.5]


def test_what_the_dead_left_is_swept_and_the_living_are_not(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s")
    gone, here = (tmp_path / "s" / "tmp" / f"{socket.gethostname()}~{pid}~x"
                  for pid in (2**22 - 3, os.getpid()))
    elsewhere = tmp_path / "s" / "tmp" / "another-machine~1~x"
    for folder in (gone, here, elsewhere):
        folder.mkdir()
    StoreWriter(tmp_path / "s")
    assert [f.exists() for f in (gone, here, elsewhere)] == [False, True, True]


def test_a_view_sees_what_was_added_after_refresh(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.query("FROM head_scores").num_rows == 0
    writer.write_unit(UNIT, _scores(1))
    assert store.query("FROM head_scores").num_rows == 0
    assert store.refresh()
    assert store.query("FROM head_scores").num_rows == 1
    assert not store.refresh()


@pytest.mark.parametrize(("content", "says"), [
    (None, "atlas.json is missing"), ("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"),
    ('{"format": 99}', "has format 99"), ('{"format": "1"}', "has format 1;")])
def test_what_is_no_store_of_this_format_is_refused(tmp_path: Path, content: str | None,
                                                    says: str) -> None:
    if content is not None:
        (tmp_path / places.MARKER).write_text(content)
    with pytest.raises(StoreError, match=says):
        open_store(tmp_path)


def test_a_damaged_file_is_left_out_and_named(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    writer.write_unit(UNIT, _scores(1))
    writer.write_unit(UNIT.replace("00000", "00001"), _scores(2))
    file = tmp_path / "s" / UNIT / "head_scores.parquet"
    file.write_bytes(file.read_bytes()[:100])
    store = open_store(tmp_path / "s")
    assert store.query("FROM head_scores")["head"].to_pylist() == [2]
    assert store.damaged == [file]


def test_a_footer_that_only_duckdb_finds_wrong_is_damage_too(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    writer.write_unit(UNIT, _scores(1))
    writer.write_unit(UNIT.replace("00000", "00001"), _scores(2))
    file = tmp_path / "s" / UNIT / "head_scores.parquet"
    _flip_a_bit_that_arrow_overlooks(file)
    assert sums.is_readable(file, TABLES["head_scores"].arrow.names)
    store = open_store(tmp_path / "s")
    assert store.query("FROM head_scores")["head"].to_pylist() == [2]
    assert store.damaged == [file]
    assert not store.refresh()


def _flip_a_bit_that_arrow_overlooks(file: Path) -> None:
    content = file.read_bytes()
    for at in range(len(content) - 12, 4, -1):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            file.write_bytes(bytes(flipped))
            if sums.is_readable(file, TABLES["head_scores"].arrow.names):
                try:
                    duckdb.sql(f"DESCRIBE FROM read_parquet('{file}')")
                except duckdb.Error:
                    return
    pytest.fail("Arrow and DuckDB agree about every bit")


@pytest.mark.parametrize("name", ["plain", "a/b", "..", ".hidden", "a b", "*?[x]", "%41", "ü'\"",
                                  "x" * 60])
def test_any_model_name_is_a_folder_and_back(name: str) -> None:
    folder = Path(places.slug(name))
    assert len(folder.parts) == 1 and not folder.name.startswith(".")
    assert places.name_of(folder) == name
