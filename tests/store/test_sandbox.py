"""The SQL door reads only: hostile statements are refused or stopped, and nothing changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from store.errors import QueryError
from store.sandbox import Door
from tests.synthetic import make_store

STORE, OUT = "{store}", "{out}"

HOSTILE = [
    "", ";", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW images",
    "COPY images TO '{out}'", "COPY (SELECT 1) TO '{out}' (FORMAT csv)",
    "WITH x AS (COPY (SELECT 1) TO '{out}') SELECT * FROM x",
    "SELECT * FROM (COPY (SELECT 1) TO '{out}')",
    "WITH x AS (INSERT INTO images SELECT * FROM images RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM images RETURNING *) SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'", "EXPLAIN SELECT 1",
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')", "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_parquet('{store}/images/*.parquet')", "SELECT * FROM glob('/*')",
    "SELECT * FROM read_json('/etc/passwd')", "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM query('SELECT 1')", "SELECT * FROM query_table('images')",
    "SELECT * FROM duckdb_settings()", "SELECT * FROM pragma_database_list",
    "SELECT * FROM parquet_metadata('{store}/images/00000.parquet')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM images WHERE path IN (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM images, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a FROM t, read_text('/etc/passwd')) "
    "SELECT * FROM t",
    "ATTACH '{out}' AS other", "ATTACH ':memory:' AS other", "DETACH memory", "USE memory",
    "INSTALL httpfs", "LOAD httpfs", "FORCE INSTALL spatial",
    "SET memory_limit = '100GB'", "SET enable_external_access = true", "RESET memory_limit",
    "SET lock_configuration = false", "PRAGMA enable_external_access = true",
    "PRAGMA database_list", "PRAGMA export_database('{out}')", "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{store}'", "CREATE TABLE t (a INT)", "CREATE VIEW images AS SELECT 1",
    "CREATE OR REPLACE TEMP VIEW images AS SELECT 1", "CREATE MACRO f() AS 1", "CREATE SCHEMA s",
    "CREATE SECRET (TYPE s3)", "CREATE SEQUENCE q", "DROP VIEW images", "ALTER VIEW images "
    "RENAME TO i", "INSERT INTO images DEFAULT VALUES", "UPDATE images SET label = ''",
    "DELETE FROM images", "TRUNCATE images", "CHECKPOINT", "VACUUM", "ANALYZE", "BEGIN", "COMMIT",
    "CALL pragma_version()", "PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p",
    "SELECT 1 /* */ ; /* x */ COPY (SELECT 1) TO '{out}'",
    "/* SELECT */ COPY (SELECT 1) TO '{out}'", "SELECT ';'; COPY (SELECT 1) TO '{out}' --",
    "SELECT * FROM 'https://example.org/a.parquet'", "SELECT * FROM 's3://bucket/a.parquet'",
    "SELECT no_such_column FROM images", "SELECT * FROM no_such_table", "SELEC 1",
    "SELECT count(*) FROM range(10000000000) a, range(10000000000) b",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT max(a) FROM t",
    "SELECT list(a) FROM range(10000000000) t(a)", "SELECT repeat('x', 100000000000)",
    "SELECT * FROM range(400000000) ORDER BY random()", "SELECT * FROM range(100000000000)",
    "SELECT current_setting('allowed_paths')", "SELECT write_log('x')",
    "PIVOT heads ON model USING avg(probability_drop_mean)",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("door") / "store", images=8)


def _state(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else "folder"
            for f in sorted(folder.parent.rglob("*"))}


def test_hostile_statements_are_refused_or_stopped_and_change_nothing(store: Path) -> None:
    door = Door(store, seconds=1, memory="300MB")
    before = _state(store)
    let_through = []
    for statement in HOSTILE:
        out = store.parent / "out.csv"
        try:
            door.query(statement.replace(STORE, str(store)).replace(OUT, str(out)))
            let_through.append(statement)
        except QueryError as error:
            assert str(error).strip() and "\n" not in str(error), statement
    assert not let_through
    assert _state(store) == before
    assert door.query("SELECT count(*) AS n FROM images")["n"].to_pylist() == [8]


@pytest.mark.parametrize("statement", [
    "SELECT model, layer, head, avg(probability_drop) d FROM head_scores GROUP BY ALL "
    "ORDER BY d DESC LIMIT 10",
    "FROM images", "DESCRIBE images", "SHOW TABLES", "SUMMARIZE heads", "VALUES (1), (2)",
    "SELECT unnest([1, 2])", "SELECT * FROM range(3)", "SELECT 1;", "SELECT 1 -- why not",
    "WITH a AS (SELECT 1 AS x) SELECT * FROM a UNION SELECT 2 ORDER BY x",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t WHERE a < 5) FROM t",
    "SELECT h.model FROM heads h JOIN models m USING (model) WHERE m.layers > 4 LIMIT 1",
    "SELECT * FROM images i, LATERAL (SELECT i.image + 1) LIMIT 1",
    "PIVOT heads ON layer IN (0, 1) USING avg(sink_mean) GROUP BY model",
    "SELECT model, unnest(hop_strength) FROM main.head_strength LIMIT 3",
    "SELECT t.name FROM predictions, unnest(top5) u(t) LIMIT 3", 'FROM "heads" LIMIT 1',
    "SELECT rank() OVER (ORDER BY image) FROM images QUALIFY rank() OVER (ORDER BY image) < 3",
])
def test_plain_questions_are_answered(store: Path, statement: str) -> None:
    assert Door(store).query(statement).num_rows > 0


def test_rows_can_be_bounded(store: Path) -> None:
    assert Door(store).query("SELECT * FROM head_scores -- all", max_rows=5).num_rows == 5
    assert Door(store).query("DESCRIBE images;", max_rows=2).num_rows == 2
