"""What somebody may type who means no good, or does not know better: nothing of it is answered."""

from __future__ import annotations

from collections.abc import Iterator

OUT, STORE, CANARY = "{out}", "{store}", "{canary}"
"""What is put in: a file to write, the store's folder, a file beside it."""

REFUSED = [
    "", ";", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW images",
    "COPY images TO '{out}'", "COPY (SELECT 1) TO '{out}' (FORMAT csv)",
    "WITH x AS (COPY (SELECT 1) TO '{out}') SELECT * FROM x",
    "SELECT * FROM (COPY (SELECT 1) TO '{out}')",
    "WITH x AS (INSERT INTO images SELECT * FROM images RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM images RETURNING *) SELECT * FROM x",
    "WITH x AS MATERIALIZED (UPDATE images SET label = '' RETURNING *) SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1",
    "COPY (SELECT 1) TO '{store}/images/00000.parquet' (FORMAT parquet)",
    "COPY images FROM '{canary}'", "COPY FROM DATABASE memory TO other",
    "SELECT * FROM read_csv('{canary}')", "SELECT * FROM read_text('{canary}')",
    "SELECT * FROM read_blob('{canary}')", "SELECT * FROM '{canary}'", 'SELECT * FROM "{canary}"',
    "SELECT * FROM '{store}/images/00000.parquet'",
    "SELECT * FROM read_parquet('{store}/images/*.parquet')", "SELECT * FROM glob('/*')",
    "SELECT * FROM read_json('{canary}')", "SELECT * FROM sniff_csv('{canary}')",
    "SELECT * FROM read_duckdb('{canary}')", "SELECT * FROM read_ndjson_objects('{canary}')",
    "SELECT * FROM query('SELECT 1')", "SELECT * FROM query_table('images')",
    "SELECT * FROM duckdb_settings()", "SELECT * FROM pragma_database_list",
    "SELECT * FROM parquet_metadata('{store}/images/00000.parquet')",
    "SELECT * FROM parquet_kv_metadata('{canary}')", "SELECT * FROM parquet_schema('{canary}')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT (SELECT content FROM read_text('{canary}'))",
    "SELECT * FROM images WHERE path IN (SELECT content FROM read_text('{canary}'))",
    "SELECT * FROM images, LATERAL (SELECT * FROM read_text('{canary}'))",
    "SELECT 1 LIMIT (SELECT len(content) FROM read_text('{canary}'))",
    "SELECT list_transform([1], lambda x: (SELECT len(content) FROM read_text('{canary}')))",
    "FROM range((SELECT len(content) FROM read_text('{canary}')))",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a FROM t, read_text('{canary}')) "
    "SELECT * FROM t",
    "WITH duckdb_logs AS (SELECT * FROM duckdb_logs) SELECT * FROM duckdb_logs",
    "SELECT * FROM duckdb_views, (WITH duckdb_views AS (SELECT 1) SELECT 1)",
    "SELECT * FROM \"{canary}\", (WITH \"{canary}\" AS (SELECT 1) SELECT 1)",
    "WITH a AS (FROM b), b AS (SELECT 1) FROM a", "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_settings", "SELECT * FROM sqlite_master", "SHOW DATABASES",
    "SHOW ALL TABLES", "SHOW VARIABLES", "SELECT * FROM system.main.duckdb_tables",
    "SELECT * FROM cursor", "SELECT * FROM sql", "SELECT * FROM self",
    "ATTACH '{out}' AS other", "ATTACH ':memory:' AS other", "DETACH memory", "USE memory",
    "INSTALL httpfs", "LOAD httpfs", "LOAD '{canary}'", "FORCE INSTALL spatial",
    "UPDATE EXTENSIONS", "SET memory_limit = '100GB'", "SET enable_external_access = true",
    "SET GLOBAL allowed_directories = ['/']", "RESET memory_limit", "SET VARIABLE a = 1",
    "SET lock_configuration = false", "PRAGMA enable_external_access = true",
    "PRAGMA database_list", "PRAGMA export_database('{out}')", "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{store}'", "CREATE TABLE t (a INT)", "CREATE VIEW images AS SELECT 1",
    "CREATE OR REPLACE TEMP VIEW images AS SELECT 1", "CREATE MACRO f() AS 1", "CREATE SCHEMA s",
    "CREATE TABLE t AS SELECT 1", "CREATE TYPE a AS ENUM ('b')", "CREATE INDEX i ON images (image)",
    "CREATE SECRET (TYPE s3)", "CREATE SEQUENCE q", "DROP VIEW images", "ALTER VIEW images "
    "RENAME TO i", "INSERT INTO images DEFAULT VALUES", "UPDATE images SET label = ''",
    "MERGE INTO images USING images i ON true WHEN MATCHED THEN DELETE", "COMMENT ON VIEW images "
    "IS 'x'", "DELETE FROM images", "TRUNCATE images", "CHECKPOINT", "VACUUM", "ANALYZE", "BEGIN",
    "COMMIT", "CALL pragma_version()", "CALL enable_logging()", "PREPARE p AS SELECT 1",
    "EXECUTE p", "DEALLOCATE p", "SELECT $1", "SELECT ?",
    "SELECT 1 /* */ ; /* x */ COPY (SELECT 1) TO '{out}'",
    "/* SELECT */ COPY (SELECT 1) TO '{out}'", "SELECT ';'; COPY (SELECT 1) TO '{out}' --",
    "SELECT 1) TO '{out}'; COPY (SELECT 1", "SELECT $$;$$; COPY (SELECT 1) TO '{out}'",
    "SELECT 1\0; COPY (SELECT 1) TO '{out}'",
    "SELECT * FROM 'https://example.org/a.parquet'", "SELECT * FROM 's3://bucket/a.parquet'",
    "SELECT no_such_column FROM images", "SELECT * FROM no_such_table", "SELEC 1",
    "SELECT current_setting('allowed_paths')", "SELECT CURRENT_SETTING ('home_directory')",
    "SELECT 'allowed_paths'.current_setting()", "SELECT system.main.current_setting('threads')",
    "SELECT list_transform(['threads'], lambda x: current_setting(x))",
    "SELECT write_log('x')", "SELECT getvariable('x')", "SELECT getenv('HOME')",
    "SELECT nextval('q')", "SELECT setseed(0.5)", "SELECT setval('q', 1)", "SELECT sleep_ms(9999)",
    "SELECT pg_sleep(9)", "SELECT json_serialize_plan('SELECT 1')", "SELECT current_query()",
    "SELECT txid_current()", "SELECT stats(image) FROM images", "SELECT error('x')",
    "PIVOT heads ON model USING avg(probability_drop_mean)",
    "SELECT * FROM images AT (VERSION => 1)", "SELECT 1 --" + "x" * 100_000,
    "SHOW TRIGGERS", "CREATE TRIGGER t AFTER INSERT ON images EXECUTE SELECT 1",
]
"""Refused at once, in any process."""

ENDLESS = [
    "SELECT count(*) FROM range(10000000000) a, range(10000000000) b",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT max(a) FROM t",
    "SELECT list(a) FROM range(10000000000) t(a)", "SELECT repeat('x', 100000000000)",
    "SELECT * FROM range(400000000) ORDER BY random()",
    "SELECT count(*) FROM generate_series(1, 1000000000000000000)",
    "SELECT list_resize([1], 100000000000)", "SELECT len(range(1000000000000))",
    "SELECT count(*) FROM images a, images b, images c, images d, images e, images f, images g, "
    "images h, images i, images j, images k, images l",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)",
]
"""What DuckDB's own bounds stop."""

TOUGH = [
    "SELECT sum(length(repeat('x', 1000000 + a::INTEGER))) FROM range(100000) t(a)",
    "SELECT length(rpad('x', 2000000000, 'y'))",
    "SELECT length(printf('%2000000000d', 1))",
    "SELECT * FROM " + "(" * 5000 + "images" + ")" * 5000,
    "SELECT a" + ".b" * 30_000,
    "SELECT " + "(" * 40_000 + "1" + ")" * 40_000,
    "SELECT " + "[" * 40_000 + "1" + "]" * 40_000,
    "SELECT 1" + "::INTEGER[]" * 8_000,
    "SELECT 1" + " UNION ALL SELECT 1" * 5_000,
    "SELECT * FROM " + "(SELECT * FROM " * 5000 + "images" + ")" * 5000,
    "SELECT (repeat('[', 10000000) || repeat(']', 10000000))::JSON -> 0",
    "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
    "SELECT st_astext(st_geomfromwkb(repeat('\\x01\\x07\\x00\\x00\\x00\\x01\\x00\\x00\\x00', "
    "1000000)::BLOB))",
]
"""What only another process stops, for some or all of it: DuckDB does not look at its bounds then,
or its memory is not counted, or its stack could end."""


def filled(statements: list[str], **values: object) -> Iterator[str]:
    """The statements with the places of files put in."""
    for statement in statements:
        for name, value in values.items():
            statement = statement.replace("{" + name + "}", str(value))
        yield statement
