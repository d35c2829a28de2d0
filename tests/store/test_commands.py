"""`headatlas sql` and `headatlas info` as a person calls them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import headatlas
from store import places
from tests.synthetic import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("commands") / "store", images=8)


QUERY = ("SELECT model, layer, head, avg(probability_drop) d FROM head_scores GROUP BY ALL "
         "ORDER BY d DESC LIMIT 10")


def _answer(capsys: pytest.CaptureFixture, *argv: str) -> str:
    assert headatlas.main([*map(str, argv)]) == 0
    return capsys.readouterr().out


def test_a_query_is_answered_in_the_format_asked_for(store: Path, capsys) -> None:
    table = _answer(capsys, "sql", "--store", store, QUERY)
    as_csv = list(csv.DictReader(io.StringIO(
        _answer(capsys, "sql", "--store", store, "--format", "csv", QUERY))))
    as_json = json.loads(_answer(capsys, "sql", "--store", store, QUERY, "--format", "json"))
    assert table.splitlines()[0].split() == ["model", "layer", "head", "d"]
    assert "(10 rows)" in table
    assert len(as_csv) == len(as_json) == 10
    assert as_json[0]["model"] == "alpha" and (as_json[0]["layer"], as_json[0]["head"]) == (0, 1)
    assert float(as_csv[0]["d"]) == pytest.approx(as_json[0]["d"])


def test_odd_values_have_a_form_in_every_format(store: Path, capsys) -> None:
    query = ("SELECT NULL AS a, 'x,\"y\n' AS b, [1, 2] AS c, {'d': 1.5} AS e, 'nan'::FLOAT AS f, "
             "DATE '2026-01-02' AS g, '\\xAA'::BLOB AS h, 1.5::DECIMAL(4,2) AS i, true AS j")
    (row,) = json.loads(_answer(capsys, "sql", "--store", store, "--format", "json", query))
    assert row == {"a": None, "b": 'x,"y\n', "c": [1, 2], "e": {"d": 1.5}, "f": None,
                   "g": "2026-01-02", "h": "aa", "i": 1.5, "j": True}
    (cells,) = csv.DictReader(io.StringIO(
        _answer(capsys, "sql", "--store", store, "--format", "csv", query), newline=""))
    assert cells["a"] == "" and cells["b"] == 'x,"y\n' and cells["c"] == "[1, 2]"
    assert "NULL" in _answer(capsys, "sql", "--store", store, query)


def test_no_rows_is_an_answer_too(store: Path, capsys) -> None:
    query = "SELECT image FROM images WHERE image < 0"
    assert "(0 rows)" in _answer(capsys, "sql", "--store", store, query)
    assert _answer(capsys, "sql", "--store", store, "--format", "csv", query) == "image\n"
    assert json.loads(_answer(capsys, "sql", "--store", store, "--format", "json", query)) == []


def test_info_says_what_is_there_and_what_is_missing(store: Path, capsys) -> None:
    said = _answer(capsys, "info", "--store", store)
    assert "8 images, 8 labelled with 4 labels" in said
    assert all(name in said for name in ("alpha", "beta", "gamma", "head_scores", "sha256"))
    assert "incomplete" not in said
    unit = places.model_folder(store, "beta") / "heads" / "00000"
    unit.rename(unit.parent.parent / "aside")
    try:
        assert "beta lacks 1 of 1 parts" in _answer(capsys, "info", "--store", store)
    finally:
        (unit.parent.parent / "aside").rename(unit)
