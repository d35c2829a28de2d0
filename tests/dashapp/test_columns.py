"""Columns of answers: which are the same memory, and where the rows of a model are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dashapp.figures.columns import Same, spans


def table() -> pa.Table:
    return pa.table({"model": ["a", "a", "b"], "x": pa.array([1.0, 2.0, None]),
                     "named": pa.array(["p", "q", "p"]).dictionary_encode()})


def test_what_the_store_keeps_is_the_same_in_every_answer():
    kept = table()
    one, other = (kept.append_column("kept", pa.array(passes))
                  for passes in ([True] * 3, [False] * 3))
    names = kept.column_names
    assert Same(one.select(names)) == Same(other.select(names))
    assert hash(Same(one.select(names))) == hash(Same(other.select(names)))
    assert Same(one) != Same(other)


@pytest.mark.parametrize("other", [
    table(), table().slice(1), table().slice(0, 2), table().select(["x", "model", "named"]),
    table().rename_columns(["model", "y", "named"]), table()[:0]])
def test_what_only_looks_the_same_is_not(other):
    assert Same(table()) != Same(other)


def test_parts_of_one_table_differ():
    whole = table()
    parts = [whole, whole.slice(1), whole.slice(0, 2), whole.select(["model", "x"]),
             whole.rename_columns(["model", "y", "named"])]
    assert len({Same(part) for part in parts}) == len(parts)


def test_an_empty_column_of_texts_is_a_key():
    nothing = pa.table({"label": pa.array([None, None], pa.string()),
                        "path": pa.array(["", ""], pa.string())})
    assert hash(Same(nothing)) == hash(Same(nothing))


def test_the_rows_of_a_model_come_together():
    models = pa.chunked_array([["a", "a"], ["b", "c", "c"]])
    found = {name: np.arange(5)[own].tolist() for name, own in spans(models).items()}
    assert found == {"a": [0, 1], "b": [2], "c": [3, 4]}
    assert spans(models[:0]) == {}
