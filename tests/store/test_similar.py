"""How alike heads are, against plain Python, and `headatlas similar` as a person calls it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import headatlas
from store import places
from store.canon import CLASS, KINDS, PATCH, Kind
from store.errors import StoreError
from store.reader import Store, open_store
from store.schema import TABLES
from store.similar import Heads, alike, deviation, heads_of, similarity
from store.writer import StoreWriter, to_table

Row = dict[str, object]


def drawn(rng: np.random.Generator, kind: Kind) -> np.ndarray:
    """A made-up pattern: somewhat smooth, each group summing to 1."""
    logits = rng.normal(0, 3, (kind.side, kind.side))
    for axis in (0, 1):
        logits = (logits + np.roll(logits, 1, axis) + np.roll(logits, 2, axis)) / 2
    shares = np.concatenate([np.exp(logits).ravel(), rng.uniform(0.2, 1, len(kind.beside))])
    for group in kind.groups:
        shares[group] /= shares[group].sum()
    return shares


def uniform(kind: Kind) -> np.ndarray:
    return np.array([1 / kind.cells] * kind.cells + [1] + [0] * (len(kind.beside) - 1))


def some_heads(seed: int, layers: int, heads: int, class_token: bool = True) -> list[Row]:
    """Rows of `heads`, as far as this is about them."""
    rng = np.random.default_rng(seed)
    return [{"layer": layer, "head": head, "pattern": f"look {head}",
             "patch_pattern": drawn(rng, PATCH),
             "class_pattern": drawn(rng, CLASS) if class_token else None}
            for layer in range(layers) for head in range(heads)]


def write_heads(writer: StoreWriter, model: str, rows: Sequence[Row]) -> None:
    """A model with these heads and nothing else."""
    for table, found in (("heads", rows), ("model", [{}])):
        name = "models" if table == "model" else table
        writer.write_file(f"models/{places.slug(model)}/{table}.parquet", to_table(name, {
            c.name: [model if c.name == "model" else row.get(c.name) for row in found]
            for c in TABLES[name].columns}))


def as_heads(rows: Sequence[Row]) -> Heads:
    """What `heads_of` would read of them, were they in a store."""
    return Heads(np.array([r["layer"] for r in rows]), np.array([r["head"] for r in rows]),
                 [r["pattern"] for r in rows], {
        name: deviation(kind, np.array([
            np.full(kind.size, np.nan) if r[f"{name}_pattern"] is None else r[f"{name}_pattern"]
            for r in rows])) for name, kind in KINDS.items()})


def slow(a: Row, b: Row) -> float:
    """The similarity of two heads, number by number."""
    product = square = 0.0
    for name, kind in KINDS.items():
        x, y = a[f"{name}_pattern"], b[f"{name}_pattern"]
        if x is None or y is None:
            continue
        for p, q, even in zip(x, y, uniform(kind), strict=True):
            product += (math.sqrt(p) - math.sqrt(even)) * (math.sqrt(q) - math.sqrt(even))
            square += (math.sqrt(p) - math.sqrt(even)) ** 2 + (math.sqrt(q) - math.sqrt(even)) ** 2
    rounding = 171 / 12 / 255 ** 2
    return (2 * product + rounding) / (square + rounding)


def test_similarity_is_that_of_plain_python() -> None:
    a = some_heads(0, 2, 2) + some_heads(1, 1, 2, class_token=False)
    b = some_heads(2, 1, 3, class_token=False) + some_heads(3, 1, 2)
    expected = [[slow(x, y) for y in b] for x in a]
    assert similarity(as_heads(a), as_heads(b)) == pytest.approx(np.array(expected), abs=1e-9)


def test_it_is_symmetric_and_1_on_itself_and_nowhere_more() -> None:
    a, b = as_heads(some_heads(0, 3, 4)), as_heads(some_heads(1, 2, 5, class_token=False))
    assert np.diag(similarity(a, a)) == pytest.approx(1, abs=1e-12)
    assert similarity(a, b) == pytest.approx(similarity(b, a).T, abs=1e-12)
    assert (np.abs(similarity(a, b)) < 1).all()


def test_a_weaker_head_is_less_alike_than_an_equal_one() -> None:
    (row,) = some_heads(0, 1, 1, class_token=False)
    values = []
    for share in (1.0, 0.5, 0.1, 0.0):
        mixed = share * row["patch_pattern"] + (1 - share) * uniform(PATCH)
        values += similarity(as_heads([row]), as_heads([{**row, "patch_pattern": mixed}])).tolist()
    strengths = [value for (value,) in values]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] == pytest.approx(1) and strengths[-1] < 0.01


def test_two_uniform_heads_are_alike() -> None:
    rows = [{"layer": 0, "head": 0, "pattern": None, "patch_pattern": uniform(PATCH),
             "class_pattern": uniform(CLASS)}]
    assert similarity(as_heads(rows), as_heads(rows)).item() == pytest.approx(1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with other shapes, of which one has no class token; a third one's first block has
    no patch pattern, and a fourth has no patterns yet."""
    writer = StoreWriter(tmp_path_factory.mktemp("similar") / "store")
    late = some_heads(7, 2, 2)
    late = [{**r, "patch_pattern": None} if r["layer"] == 0 else r for r in late]
    write_heads(writer, "plain", some_heads(5, 3, 2))
    write_heads(writer, "it's \"odd\" / 2", some_heads(6, 2, 4, class_token=False))
    write_heads(writer, "late", late)
    write_heads(writer, "new", [{**r, "patch_pattern": None, "class_pattern": None}
                                for r in some_heads(8, 1, 2)])
    writer.write_file("models/plain/head_matches.parquet", to_table("head_matches", {
        "model": ["plain"], "layer": [1], "head": [1], "other_model": ["late"],
        "other_layer": [1], "other_head": [0], "similarity": [0.5], "p_value": [0.25],
        "matched": [False]}))
    return writer.path


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return open_store(path)


def _where(row: Row) -> tuple:
    return row["model"], row["layer"], row["head"]


def test_the_most_alike_of_other_models_come_first(store: Store) -> None:
    heads = store.query("FROM heads WHERE patch_pattern IS NOT NULL").to_pylist()
    (own,) = [r for r in heads if _where(r) == ("plain", 1, 1)]
    others = [r for r in heads if r["model"] != "plain"]
    expected = sorted(others, key=lambda r: -slow(own, r))
    found = alike(store, "plain", 1, 1, count=100).to_pylist()
    assert [_where(r) for r in found] == [_where(r) for r in expected]
    assert [r["similarity"] for r in found] == pytest.approx([slow(own, r) for r in expected],
                                                             abs=1e-5)
    assert [r["pattern"] for r in found] == [r["pattern"] for r in expected]
    assert alike(store, "plain", 1, 1, count=3).to_pylist() == found[:3]


def test_the_assigned_head_is_marked_and_no_other(store: Store) -> None:
    found = {_where(r): (r["p_value"], r["matched"])
             for r in alike(store, "plain", 1, 1, count=100).to_pylist()}
    assert found.pop(("late", 1, 0)) == (0.25, False)
    assert set(found.values()) == {(None, None)}


def test_its_own_model_is_shown_on_request_without_the_head_itself(store: Store) -> None:
    every = alike(store, "plain", 0, 0, count=100, across=False).to_pylist()
    named = alike(store, "plain", 0, 0, count=100, models=["plain", "plain"]).to_pylist()
    assert {r["model"] for r in every} == {"plain", "it's \"odd\" / 2", "late"}
    assert [r for r in every if r["model"] == "plain"] == named
    assert len(named) == 5 and ("plain", 0, 0) not in map(_where, named)


def test_heads_without_a_patch_pattern_are_left_out(store: Store) -> None:
    assert {name: len(heads) for name, heads in heads_of(store).items()} == {
        "plain": 6, "it's \"odd\" / 2": 8, "late": 2}


@pytest.mark.parametrize(("asked", "says"), [
    ((("nobody", 0, 0), {}), r"no model 'nobody' .* 'late', 'new', 'plain'"),
    ((("plain", 3, 0), {}), "no layer 3; its layers are 0 to 2"),
    ((("plain", 10 ** 30, 0), {}), "no layer 1000"),
    ((("plain", 0, 2), {}), "no head 2 in layer 0; its heads are 0 to 1"),
    ((("late", 0, 1), {}), "head 1 of layer 0 of 'late' has no patch pattern"),
    ((("new", 0, 0), {}), "no patterns of 'new': run precompute again"),
    ((("plain", 0, 0), {"models": ["zed"]}), "no model 'zed'"),
])
def test_a_head_that_is_not_there_is_named(store: Store, asked: tuple, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        alike(store, *asked[0], **asked[1])


def _answer(capsys: pytest.CaptureFixture, *argv: object) -> str:
    assert headatlas.main([*map(str, argv)]) == 0
    return capsys.readouterr().out


def test_the_command_answers_in_every_format(path: Path, store: Store, capsys) -> None:
    ask: Callable[..., str] = lambda *more: _answer(  # noqa: E731
        capsys, "similar", "--store", path, "plain", 1, 1, *more)
    expected = alike(store, "plain", 1, 1, count=4).to_pylist()
    assert json.loads(ask("--count", 4, "--format", "json")) == expected
    rows = list(csv.DictReader(io.StringIO(ask("--count", 4, "--format", "csv"))))
    assert [r["model"] for r in rows] == [r["model"] for r in expected]
    table = ask().splitlines()
    assert table[0].split() == ["model", "layer", "head", "similarity", "p_value", "matched",
                                "pattern"]
    assert table[-1] == "(10 rows)"
    only = json.loads(ask("--model", "late", "--model", "plain", "--format", "json"))
    assert {r["model"] for r in only} == {"late", "plain"}


def test_the_command_takes_any_name(path: Path, capsys) -> None:
    answer = _answer(capsys, "similar", "--store", path, "it's \"odd\" / 2", 1, 3, "--format",
                     "json", "--model", "it's \"odd\" / 2")
    assert len(json.loads(answer)) == 7


def test_a_single_model_has_no_others(tmp_path: Path, capsys) -> None:
    writer = StoreWriter(tmp_path / "s")
    write_heads(writer, "m", some_heads(0, 1, 1))
    assert "(0 rows)" in _answer(capsys, "similar", "--store", tmp_path / "s", "m", 0, 0)
    assert _answer(capsys, "similar", "--store", tmp_path / "s", "m", 0, 0, "--model", "m",
                   "--format", "json") == "[]\n"
