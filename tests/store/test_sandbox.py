"""The SQL door reads only: hostile statements are refused or stopped, and nothing changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import pytest

from store.errors import QueryError
from store.sandbox import Door
from store.schema import TABLES
from store.statements import REFUSED_FUNCTIONS, TABLE_FUNCTIONS
from tests.store.hostile import ENDLESS, REFUSED, filled
from tests.synthetic import MODELS, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("door") / "store", images=8)


@pytest.fixture(scope="module")
def door(store: Path) -> Door:
    return Door(store)


def _state(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else "folder"
            for f in sorted(folder.parent.rglob("*"))}


def test_hostile_statements_are_refused_or_stopped_and_change_nothing(store: Path) -> None:
    canary, out = store.parent / "canary.csv", store.parent / "out.csv"
    canary.write_text("a,b\n1,2\n")
    door = Door(store, seconds=1, memory="300MB")
    before = _state(store)
    let_through = []
    for statement in filled(REFUSED + ENDLESS, store=store, out=out, canary=canary):
        try:
            door.query(statement)
            let_through.append(statement)
        except QueryError as error:
            said = str(error)
            assert said.strip(), statement
            assert "\n" not in said, statement
            assert len(said) < 1000, statement
    assert not let_through
    assert _state(store) == before
    assert door.query("SELECT count(*) AS n FROM images")["n"].to_pylist() == [8]


def test_no_table_function_but_three_is_let_through(door: Door) -> None:
    """Whatever DuckDB brings along, with any arguments: refused by name, before it is bound."""
    with duckdb.connect() as all_of_it:
        names = {row[0] for row in all_of_it.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type IN ('table', 'table_macro', 'pragma')").fetchall()}
    assert len(names) > 100
    for name in names - TABLE_FUNCTIONS:
        with pytest.raises(QueryError, match="not allowed"):
            door.query(f'SELECT * FROM "{name}"()')


@pytest.mark.parametrize("name", sorted(REFUSED_FUNCTIONS))
@pytest.mark.parametrize("call", ["{}()", '"{}"(1)', "main.{}('a', 'b')"])
def test_functions_that_tell_or_change_are_refused(door: Door, name: str, call: str) -> None:
    with pytest.raises(QueryError, match="not allowed"):
        door.query("SELECT " + call.format(name.upper() if call[0] == "{" else name))


@pytest.mark.parametrize("statement", [
    "SELECT model, layer, head, avg(probability_drop) d FROM head_scores GROUP BY ALL "
    "ORDER BY d DESC LIMIT 10",
    "FROM images", "DESCRIBE images", "SHOW TABLES", "SUMMARIZE models", "VALUES (1), (2)",
    "SELECT unnest([1, 2])", "SELECT * FROM range(3)", "SELECT 1;", "SELECT 1 -- why not",
    "WITH a AS (SELECT 1 AS x) SELECT * FROM a UNION SELECT 2 ORDER BY x",
    "WITH A AS (SELECT 1 AS x), b AS (FROM a) SELECT * FROM B, (SELECT * FROM a)",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t WHERE a < 5) FROM t",
    "WITH RECURSIVE t(a) USING KEY (a) AS (SELECT 1 UNION SELECT a + 1 FROM recurring.t WHERE "
    "a < 4) FROM t",
    "SELECT h.model FROM heads h JOIN models m USING (model) WHERE m.layers > 4 LIMIT 1",
    "SELECT * FROM images i, LATERAL (SELECT i.image + 1) LIMIT 1",
    "PIVOT heads ON layer IN (0, 1) USING avg(sink_mean) GROUP BY model",
    "SELECT model, unnest(hop_strength) FROM main.head_strength LIMIT 3",
    "SELECT t.name FROM predictions, unnest(top5) u(t) LIMIT 3", 'FROM "heads" LIMIT 1',
    "SELECT rank() OVER (ORDER BY image) FROM images QUALIFY rank() OVER (ORDER BY image) < 3",
    "SELECT 'COPY x TO y; DROP TABLE z' AS harmless -- COPY",
    "WITH images AS (SELECT 1) FROM images",
])
def test_plain_questions_are_answered(door: Door, statement: str) -> None:
    assert door.query(statement).num_rows > 0


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_schema_is_open(door: Door, name: str) -> None:
    found = door.query(f"FROM {name}", max_rows=1)
    assert found.column_names == [c.name for c in TABLES[name].columns]


def test_rows_can_be_bounded(door: Door) -> None:
    assert door.query("SELECT * FROM head_scores -- all", max_rows=5).num_rows == 5
    assert door.query("DESCRIBE images;", max_rows=2).num_rows == 2


@pytest.mark.parametrize(("statement", "said"), [
    ("SELECT\n  imag FROM images", '"image", .* \\(line 2, column 3\\)'),
    ("SELEC 1", "near \"SELEC\" \\(line 1, column 1\\)"),
    ("SELECT 'ü', 'a'::INTEGER", "\\(line 1, column 16\\)"),
    ("SELECT 1\nFROM imagess", "did you mean images\\? \\(line 2, column 6\\)"),
    ("SELECT *\n\nFROM read_text('x')", "not allowed; .* \\(line 3, column 6\\)"),
    ("SELECT floo(1)", "Did you mean \"floor\""),
    ("SELECT " + "abs(" * 400 + "1" + ")" * 400, "nested too deeply"),
])
def test_an_error_says_what_and_where(door: Door, statement: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        door.query(statement)


def test_the_door_follows_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.sandbox.LOOK_SECONDS", 0)
    path = make_store(tmp_path / "store", 4, {"alpha": MODELS["alpha"]})
    door = Door(path)
    opened = door._store
    assert door.query("SELECT count(*) n FROM models")["n"].to_pylist() == [1]
    assert door._store is opened
    make_store(path, 4, {"beta": MODELS["beta"]})
    assert sorted(door.query("SELECT model FROM models")["model"].to_pylist()) == ["alpha", "beta"]
    with pytest.raises(QueryError):
        door.query("SET threads = 1")
