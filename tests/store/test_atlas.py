"""The store as a notebook sees it: the page's numbers, nothing written, clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from store import Atlas, kept, open_store
from store.errors import AtlasError, QueryError, StoreError
from store.queries import Ask, head_values
from store.selection import Labels, Outcome, Selection
from tests.synthetic import MODELS, make_store


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("atlas") / "atlas")


@pytest.fixture(scope="module")
def atlas(path: Path) -> Atlas:
    return open_store(path)


def test_it_names_what_it_holds(atlas) -> None:
    assert atlas.models == tuple(MODELS)
    assert atlas.tables["models"].columns[0].name == "model"


@pytest.mark.parametrize(("models", "labels", "outcome"), [
    ((), (), ""), (("beta",), (), ""), ((), ("cat",), ""), (("alpha", "beta"), ("cat", "dog"), ""),
    (("alpha", "beta"), (), "any_wrong")])
def test_heads_are_those_of_the_page(atlas, models, labels, outcome) -> None:
    chosen = Selection().with_(Labels(labels)).with_(Outcome(outcome))
    page = head_values(Ask(atlas, models or atlas.models, chosen), "probability_drop")
    assert atlas.heads("probability_drop", models, labels, outcome).to_pylist() \
        == page.rows(atlas).to_pylist()


def test_the_vital_head_shows_on_its_label(atlas) -> None:
    rows = atlas.heads("probability_drop", ["alpha"], ["cat"]).sort_by([("value", "descending")])
    first = rows.slice(0, 1).to_pylist()[0]
    assert (first["layer"], first["head"], first["images"]) == (0, 1, 15)
    assert first["value"] == pytest.approx(0.6)


def test_values_are_parameters(atlas) -> None:
    for statement, params in (("SELECT count(*) AS n FROM heads WHERE model = ?", ["alpha"]),
                              ("SELECT count(*) AS n FROM heads WHERE model = $m", {"m": "alpha"})):
        assert atlas.sql(statement, params)["n"].to_pylist() == [24]
    hostile = "alpha' OR true --"
    assert atlas.sql("SELECT count(*) AS n FROM heads WHERE model = ?",
                     [hostile])["n"].to_pylist() == [0]


def test_attention_is_the_matrix_that_is_kept(atlas) -> None:
    row = atlas.query("SELECT * FROM attention WHERE model = 'alpha' AND layer = 2 AND head = 1 "
                      "ORDER BY image LIMIT 1").to_pylist()[0]
    found = atlas.attention("alpha", 2, 1, row["image"])
    assert np.array_equal(found, kept.decode(row)[0])
    np.testing.assert_allclose(found.sum(1), 1, atol=0.02)


def test_with_closes_it(path) -> None:
    with open_store(path) as atlas:
        assert atlas.models
    with pytest.raises(AtlasError):
        atlas.query("SELECT 1")


REFUSED = {
    "a write": (lambda a: a.sql("COPY heads TO 'x.csv'"), QueryError, "only queries"),
    "a hidden write": (lambda a: a.sql("WITH x AS (COPY heads TO 'x.csv') FROM x"), QueryError, ""),
    "a file": (lambda a: a.sql("SELECT * FROM 'x.csv'"), QueryError, "x.csv"),
    "a setting": (lambda a: a.sql("SET threads = 1"), QueryError, "only queries"),
    "two statements": (lambda a: a.sql("SELECT 1; SELECT 2"), QueryError, "one"),
    "a mistake": (lambda a: a.sql("SELECT nope FROM heads"), QueryError, "nope"),
    "a lacking value": (lambda a: a.sql("SELECT ?"), QueryError, ""),
    "no measure": (lambda a: a.heads("nope"), StoreError, "'probability_drop'"),
    "a measure of many numbers": (lambda a: a.heads("hop_mass"), StoreError, "'hop_entropy'"),
    "no model": (lambda a: a.heads("sink", ["nope"]), StoreError, "'alpha', 'beta', 'gamma'"),
    "no label": (lambda a: a.heads("sink", (), ["nope"]), StoreError, "'cat'"),
    "no outcome": (lambda a: a.heads("sink", (), (), "nope"), StoreError, "any_wrong"),
    "no head": (lambda a: a.similar("alpha", 0, 9), StoreError, "0 to 3"),
    "no such attention": (lambda a: a.attention("alpha", 9, 0, 0), StoreError, "layer 9"),
    "no image": (lambda a: a.attention("alpha", 0, 0, 999), StoreError, "no image 999"),
    "no model of attention": (lambda a: a.attention("nope", 0, 0, 0), StoreError, "'alpha'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_there_is_said(atlas, case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask, kind, says = REFUSED[case]
    with pytest.raises(kind) as refused:
        ask(atlas)
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
