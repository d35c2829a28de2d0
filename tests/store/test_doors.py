"""Queries of many people: each in a process that can be stopped, and the files that they make."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import answers
from store.answers import SHOWN_BYTES, SHOWN_ROWS
from store.doors import BusyError, Doors, Tickets
from store.errors import QueryError, StoreError
from store.sandbox import Door
from tests.store.hostile import REFUSED, TOUGH, filled
from tests.store.test_sandbox import _state
from tests.synthetic import make_store

ENDLESS = "SELECT count(*) FROM range(100000000000000)"
TICKET = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("doors") / "store", images=8)


@pytest.fixture(scope="module")
def doors(store: Path) -> Iterator[Doors]:
    opened = Doors(store, seconds=60, folder=store.parent / "tickets")
    yield opened
    opened.close()


def shown(doors: Doors, sql: str) -> tuple[dict, dict]:
    answer = doors.ask(sql)
    with answer.file as file:
        return json.load(file), answer.facts


def content(doors: Doors, sql: str, form: str) -> bytes:
    with doors.ask(sql, form).file as file:
        return file.read()


def test_an_answer_to_look_at(doors: Doors) -> None:
    found, facts = shown(doors, "SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL ORDER BY a")
    assert found == {"columns": [{"name": "a", "type": "INTEGER", "number": True},
                                 {"name": "b", "type": "VARCHAR", "number": False}],
                     "rows": [[1, "x"], [2, None]]}
    assert (facts["shown"], facts["total"], facts["counted"]) == (2, 2, True)
    assert 0 < facts["seconds"] < 60


@pytest.mark.parametrize(("sql", "cell"), [
    ("NULL", None), ("true", "true"), ("7", 7), ("9007199254740993", "9007199254740993"),
    ("-12345678", -12345678), ("1.23456789::DOUBLE", 1.23457), ("1e-20", 1e-20),
    ("123456789.5::DOUBLE", 123457000), ("'nan'::FLOAT", "nan"), ("'-inf'::DOUBLE", "-inf"),
    ("1.50::DECIMAL(10, 2)", 1.5), ("'abc'::BLOB", "3 bytes"),
    ("[1.23456789, NULL]", "[1.23457, null]"),
    ("{'a': 1, 'b': [true]}", '{"a": 1, "b": [true]}'), ("[{'x': 0.5}]", '[{"x": 0.5}]'),
    ("range(100)", "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (100 values)"), ("[]", "[]"),
    ("repeat('y', 500)", "y" * 200 + "… (500 characters)"), ("'<b>'", "<b>"),
    ("DATE '2026-02-03'", "2026-02-03"),
    ("TIMESTAMP_NS '2026-02-03 04:05:06.123456789'", "2026-02-03 04:05:06.123456789"),
    ("MAP {'k': 1}", '[["k", 1]]'), ("'a'::ENUM('a', 'b')", "a"), ("''", ""),
])
def test_a_cell(doors: Doors, sql: str, cell: object) -> None:
    assert shown(doors, f"SELECT {sql} AS it")[0]["rows"] == [[cell]]


@pytest.mark.parametrize(("sql", "rows", "total"), [
    ("SELECT 1 WHERE false", 0, 0), ("SELECT * FROM range(2000)", SHOWN_ROWS, 2000),
    ("SELECT * FROM range(100000)", SHOWN_ROWS, 100_000)])
def test_the_first_rows_and_how_many_there_are(doors: Doors, sql: str, rows: int, total: int
                                               ) -> None:
    found, facts = shown(doors, sql)
    assert len(found["rows"]) == facts["shown"] == rows
    assert (facts["total"], facts["counted"]) == (total, True)


def test_wide_rows_are_fewer(doors: Doors) -> None:
    wide = ", ".join(f"repeat('{i}', 150) AS c{i}" for i in range(60))
    found, facts = shown(doors, f"SELECT {wide} FROM range(5000)")
    assert 50 < len(found["rows"]) < 200
    assert facts["total"] == 5000
    assert len(json.dumps(found)) < 1.2 * SHOWN_BYTES


def test_rows_that_are_too_many_are_not_all_counted(doors: Doors) -> None:
    _, facts = shown(doors, "SELECT * FROM range(100000000000)")
    assert facts["shown"] == SHOWN_ROWS
    assert not facts["counted"]


ODD = ("SELECT 1 AS a, 2 AS a, NULL AS n, 'q\"; \n,é' AS t, [1, 2] AS l, {'x': 'y'} AS s, "
       "'\\x00\\xFF'::BLOB AS b, 0.1::DOUBLE AS d FROM range(3)")


def test_csv(doors: Doors) -> None:
    rows = list(csv.reader(io.StringIO(content(doors, ODD, "csv").decode(), newline="")))
    assert rows[0] == ["a", "a", "n", "t", "l", "s", "b", "d"]
    assert rows[1:] == [["1", "2", "", 'q"; \n,é', "[1, 2]", '{"x": "y"}', "00ff", "0.1"]] * 3


def test_parquet(doors: Doors) -> None:
    table = pq.read_table(pa.BufferReader(content(doors, ODD, "parquet")))
    assert table.column_names == ["a", "a_2", "n", "t", "l", "s", "b", "d"]
    assert table.to_pylist()[2] == {"a": 1, "a_2": 2, "n": None, "t": 'q"; \n,é', "l": [1, 2],
                                    "s": {"x": "y"}, "b": b"\x00\xff", "d": 0.1}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_holds_all_rows_also_none(doors: Doors, form: str) -> None:
    for count in (0, 5000):
        made = content(doors, f"SELECT range AS i FROM range({count})", form)
        rows = made.count(b"\n") - 1 if form == "csv" else pq.read_table(
            pa.BufferReader(made)).num_rows
        assert rows == count


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_is_bounded(store: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(answers, "GROUP_BYTES", 1 << 20)
    with (pytest.raises(QueryError, match="larger than 1 MB"),
          Door(store).reading("SELECT uuid() FROM range(1000000000)") as reading):
        answers.FORMS[form](reading, io.BytesIO())


def test_hostile_statements_change_nothing_from_here_either(store: Path, doors: Doors) -> None:
    canary, out = store.parent / "canary.csv", store.parent / "out.csv"
    canary.write_text("a,b\n1,2\n")
    before = _state(store)
    for statement in filled(REFUSED, store=store, out=out, canary=canary):
        with pytest.raises(QueryError):
            doors.ask(statement)
    assert _state(store) == before


def test_what_duckdb_does_not_stop_is_stopped(store: Path) -> None:
    doors = Doors(store, seconds=1, memory=200 << 20, folder=store.parent / "tickets")
    before = _state(store)

    def said(statement: str) -> str:
        try:
            doors.ask(statement).file.close()
        except QueryError as error:
            return str(error)
        return "let through"

    with ThreadPoolExecutor(2) as threads:
        heard = list(threads.map(said, TOUGH))
    assert [s for s, answer in zip(TOUGH, heard, strict=True) if answer == "let through"] == []
    assert all("\n" not in answer and len(answer) < 700 for answer in heard)
    assert _state(store) == before
    until(lambda: said("SELECT count(*) FROM images") == "let through")  # a busy machine's second
    assert shown(Doors(store), "SELECT count(*) FROM images")[0]["rows"] == [[8]]
    doors.close()


def started(doors: Doors, ticket: str = "") -> tuple[threading.Thread, list]:
    """A query without end that is running in a thread, and what will be said of it."""
    said: list = []

    def run() -> None:
        try:
            doors.ask(ENDLESS, ticket=ticket).file.close()
        except QueryError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, said


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_query_is_cancelled_from_another_process(store: Path) -> None:
    """Another Doors over the same store stands for another worker of the server."""
    here, there = Doors(store), Doors(store)
    thread, said = started(here, TICKET)
    until(lambda: here._running == 1)
    there.cancel("f" * 32)
    there.cancel("../../canary")
    thread.join(0.3)
    assert thread.is_alive()
    there.cancel(TICKET)
    thread.join(120)
    assert len(said) == 1
    assert said[0].startswith("cancelled after")
    assert here._running == 0


def test_only_so_many_run_at_a_time(store: Path) -> None:
    doors = Doors(store, most=1)
    thread, said = started(doors, TICKET)
    until(lambda: doors._running == 1)
    with pytest.raises(BusyError, match="try again"):
        doors.ask("SELECT 1")
    doors.cancel(TICKET)
    thread.join(120)
    assert said
    assert shown(doors, "SELECT 1")[0]["rows"] == [[1]]
    doors.close()


def test_a_process_is_used_again_and_a_dead_one_replaced(doors: Doors) -> None:
    shown(doors, "SELECT 1")
    [process] = doors._idle
    shown(doors, "SELECT 1")
    assert doors._idle == [process]
    process._process.kill()
    process._process.wait()
    assert shown(doors, "SELECT 2")[0]["rows"] == [[2]]


def test_no_process_outlives_its_doors(store: Path) -> None:
    doors = Doors(store)
    shown(doors, "SELECT 1")
    number = doors._idle[0]._process.pid
    del doors
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_query_knows_nothing_of_the_server(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVER", "12345")
    doors = Doors(store)
    shown(doors, "SELECT 1")
    number = doors._idle[0]._process.pid
    environment = Path(f"/proc/{number}/environ")
    if not environment.exists():
        pytest.skip("this system does not show a process's environment")
    assert b"A_SECRET" not in environment.read_bytes()
    doors.close()


def test_a_store_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="no store at"):
        Doors(tmp_path / "nothing").ask("SELECT 1")


def test_the_folder_of_tickets_is_private(tmp_path: Path) -> None:
    tickets = Tickets(tmp_path / "own")
    tickets.cancel(TICKET)
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert tickets.cancelled(TICKET)
    tickets.forget(TICKET)
    assert not tickets.cancelled(TICKET)
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / TICKET).touch()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "link"):
        with pytest.raises(StoreError, match="nothing can be cancelled"):
            Tickets(tmp_path / name).cancel(TICKET)
        assert not Tickets(tmp_path / name).cancelled(TICKET)


def test_old_tickets_are_swept(tmp_path: Path) -> None:
    tickets = Tickets(tmp_path / "own")
    tickets.cancel(TICKET)
    os.utime(tmp_path / "own" / TICKET, (1, 1))
    tickets.cancel("f" * 32)
    assert [file.name for file in (tmp_path / "own").iterdir()] == ["f" * 32]
