"""Lists of classes as arrays are the lists of the column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from store.lists import dense
from store.table import TOP5


def listed(*chances: tuple[int, float]) -> list[dict]:
    return [{"class": c, "name": f"class {c}", "probability": p} for c, p in chances]


COLUMNS = {
    "nothing": [],
    "no lists": [None, None],
    "empty lists": [[], None],
    "of several lengths": [listed((3, 0.5), (0, 0.25)), None, listed((7, 0.75)), []],
    "a class of a large number": [listed((2 ** 31 - 1, 0.5)), listed((40_000, 1.0))],
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("chunks", [1, 2])
def test_every_list_comes_back_from_its_place(name, chunks):
    rows = COLUMNS[name]
    half = len(rows) // chunks
    column = pa.chunked_array([pa.array(rows[:half], TOP5), pa.array(rows[half:], TOP5)])
    places = np.arange(len(rows))[::-1]
    found = dense(column, (places, places % 2), (len(rows), 2))
    assert [found.at((place, place % 2)) for place in places] == rows
    assert not found.there[places, 1 - places % 2].any()


def test_small_numbers_take_few_bytes():
    column = pa.chunked_array([pa.array([listed((999, 0.5))] * 100, TOP5)])
    found = dense(column, (np.arange(100),), (100,))
    assert found.nbytes == 100 * (2 + 4 + 1)
