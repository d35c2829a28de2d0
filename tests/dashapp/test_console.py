"""The console: examples that work, links, what a chart hands over, files, and its words."""

from __future__ import annotations

import json
import math

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashapp import gestures, panels
from dashapp.app import create_app
from dashapp.console import callbacks, layout
from dashapp.console.examples import EXAMPLES
from dashapp.state import LONGEST_SQL, State, from_url
from dashapp.views import VIEWS
from store.doors import Doors
from store.literals import literal, written_in
from store.queries import Ask, Query
from store.sandbox import Door
from store.schema import TABLES
from store.statements import MOST_CHARACTERS
from tests.dashapp.test_views import FAR_AWAY

STATES = ["", "?model=alpha&label=cat", "?heads=0.1,2.3%40alpha&image=3&importance=flip",
          "?outcome=any_wrong&model=gamma&model=beta", "?" + FAR_AWAY,
          "?lasso=-20,-20,20,-20,20,20,-20,20%40alpha&kind=class&space=pca&head=1.1%40gamma"]


@pytest.fixture(scope="module")
def door(path) -> Door:
    return Door(path)


@pytest.fixture(scope="module")
def doors(path):
    opened = Doors(path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def client(path):
    return create_app(path).server.test_client()


@pytest.mark.parametrize("title", EXAMPLES)
def test_every_example_has_an_answer(door, title):
    assert door.query(EXAMPLES[title].strip()).num_rows > 0
    assert len(EXAMPLES[title]) < LONGEST_SQL


def test_there_are_examples_enough():
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("search", STATES)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
def test_what_a_chart_hands_over_gives_its_rows(view, search, store, facts, door):
    state, problems = from_url(search, facts)
    assert problems == []
    for name, query in view.ask(Ask(store, state.models, state.selection), state, facts).items():
        written = door.query(written_in(query.sql, query.params))
        asked = store.query(query.sql, dict(query.params))
        assert written.column_names == asked.column_names, name
        assert alike(written, asked), name


def alike(one: pa.Table, other: pa.Table) -> bool:
    """Equal rows, in any order, but for the last digits of sums."""
    def key(row: dict) -> str:
        return json.dumps(_rounded(list(row.values())), default=str)

    return sorted(map(key, one.to_pylist())) == sorted(map(key, other.to_pylist()))


def _rounded(value):
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return [_rounded(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("value", [
    None, True, False, 0, -7, 2 ** 62, 0.1, -1e-300, math.inf, "", "it's", 'a "b" $c', "a\0b",
    "line\nend -- ;", "é模", [], ["a", "b'"], [1, 2, 3], [0.5, 1.0], ["$x", "'"]], ids=repr)
def test_a_literal_is_the_value(value):
    with duckdb.connect() as connection:
        [(found,)] = connection.execute(f"SELECT {literal(value)}").fetchall()
    assert found == value
    assert type(found) is type(value)


def test_only_parameters_are_written_in():
    assert written_in("SELECT $a, '$a', \"$a\", $ab WHERE x = 'it''s $a'", {"a": 1, "ab": "q'"}) \
        == "SELECT 1, '$a', \"$a\", 'q''' WHERE x = 'it''s $a'"
    assert literal(["a"]).endswith("::VARCHAR[]")


def test_a_chart_offers_the_console_where_a_link_can_hold_its_query(store):
    def offered(count: int) -> str:
        query = Query("SELECT $names::VARCHAR[] AS names", {"names": ["x" * 20] * count})
        return json.dumps(panels.query_block("map", store, "name", query))

    assert "to-console" in offered(3)
    assert "to-console" not in offered(1000)
    assert "8,000 characters" in offered(1000)


SQL = "SELECT 'a & b=c; +%', \"é\"\n\tFROM heads -- ?"


@pytest.mark.parametrize("sql", ["", SQL, "x" * LONGEST_SQL, "\n", "%00", "''"])
def test_a_link_brings_the_query_back(facts, sql):
    state = State(**{**vars(from_url("", facts)[0]), "sql": sql, "tab": "sql"})
    assert from_url(state.to_url(facts), facts) == (state, [])


def test_a_query_too_long_for_a_link_is_said(facts):
    state, problems = from_url("?sql=" + "x" * (LONGEST_SQL + 1), facts)
    assert state.sql == ""
    assert problems == ["sql (longer than 8,000 characters)"]


@pytest.mark.parametrize(("gesture", "sql", "tab"), [
    ({"sql": SQL}, SQL, "heads"), ({"sql": SQL, "open": True}, SQL, "sql"), ({}, "before", "heads"),
    ({"sql": ["x"], "open": True}, "before", "heads"),
    ({"sql": "x" * (LONGEST_SQL + 1)}, "before", "heads")])
def test_gestures_of_the_console(facts, gesture, sql, tab):
    state = gestures.apply(State(sql="before"), {"kind": "sql", **gesture}, facts)
    assert (state.sql, state.tab) == (sql, tab)


def words(part) -> str:
    return json.dumps(part, default=lambda one: one.to_plotly_json())


def test_an_answer_is_shown(doors):
    content, status = callbacks.answer(doors, {"sql": "SELECT 1.5 AS a, NULL AS b FROM range(20)"})
    [grid] = content
    assert [c["headerName"] for c in grid.columnDefs] == ["a", "b"]
    assert grid.rowData == [{"c0": 1.5, "c1": None}] * 20
    assert status.startswith("20 rows · ")


@pytest.mark.parametrize(("sql", "said"), [
    ("", "no query"), ("  \n", "no query"), ("SELEC", "line 1, column 1"), (";", "found 0"),
    ("COPY images TO 'x'", "only queries"), ("SELECT 1 WHERE false", "No row. The columns would"),
    ("SELECT 1 --" + "x" * MOST_CHARACTERS, "at most 100,000"),
    ("SELECT * FROM range(5000)", "first 2,000 of 5,000 rows")])
def test_words_about_an_answer(doors, sql, said):
    assert said in words(callbacks.answer(doors, {"sql": sql}))


@pytest.mark.parametrize(("facts", "status"), [
    ({"shown": 1, "total": 1, "counted": True, "seconds": 0.001}, "1 row · 0.00 s"),
    ({"shown": 0, "total": 0, "counted": True, "seconds": 1.5}, "0 rows · 1.50 s"),
    ({"shown": 2000, "total": 31072, "counted": False, "seconds": 6},
     "first 2,000 of more than 31,072 rows · 6.00 s")])
def test_the_line_about_an_answer(facts, status):
    assert layout.status(facts) == status


@pytest.mark.parametrize("name", TABLES)
def test_the_schema_can_be_written_into_a_query(door, name):
    """What a click writes is a name in SQL, also where the column is called like a word of it."""
    found = json.loads(words(layout.columns(TABLES[name])))
    [*_, listed] = found
    written = [row["props"]["children"][0]["props"]["data-insert"]
               for row in listed["props"]["children"]]
    rows = door.query(f"SELECT {', '.join(written)} FROM {name} LIMIT 0")
    assert rows.column_names == [c.name for c in TABLES[name].columns]


def test_files(client):
    sql = "SELECT model, layer FROM heads ORDER BY ALL"
    with client.post("/console/answer.csv", data={"sql": sql}) as answer:
        assert answer.status_code == 200
        assert answer.text.splitlines()[:2] == ["model,layer", "alpha,0"]
        assert "headatlas-query.csv" in answer.headers["Content-Disposition"]
    with client.post("/console/answer.parquet", data={"sql": sql}) as answer:
        assert pq.read_table(pa.BufferReader(answer.data)).column_names == ["model", "layer"]


@pytest.mark.parametrize(("url", "data", "headers", "code", "said"), [
    ("csv", {"sql": "SELEC"}, {}, 400, "line 1, column 1"),
    ("csv", {"sql": "COPY images TO 'x'"}, {}, 400, "only queries"),
    ("parquet", {}, {}, 400, "no query"), ("exe", {"sql": "SELECT 1"}, {}, 404, ""),
    ("csv", {"sql": "SELECT 1 --" + "é" * MOST_CHARACTERS}, {}, 400, "at most 100,000"),
    ("csv", {"sql": "x" * 3_000_000}, {}, 413, ""),
    ("csv", {"sql": "SELECT 1"}, {"Sec-Fetch-Site": "cross-site"}, 403, "not for other sites")])
def test_files_that_are_refused(client, url, data, headers, code, said):
    answer = client.post(f"/console/answer.{url}", data=data, headers=headers)
    assert answer.status_code == code
    assert said in answer.text
    assert "Traceback" not in answer.text
    assert said == "" or answer.text.count("\n") == 1


def test_a_form_is_posted_not_fetched(client):
    assert client.get("/console/answer.csv?sql=SELECT+1").status_code != 200 \
        or b"SELECT" not in client.get("/console/answer.csv?sql=SELECT+1").data
