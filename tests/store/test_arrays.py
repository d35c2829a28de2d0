"""Parts of an array are its own, however they are read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from safetensors.numpy import save

from store.arrays import REQUESTS, Arrays

VALUES = np.arange(60, dtype=np.float32).reshape(20, 3)


class Counted(io.BytesIO):
    """A file that counts what is asked of it."""

    asked = 0

    def readinto(self, buffer) -> int:
        self.asked += 1
        return super().readinto(buffer)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("count", [1, REQUESTS, REQUESTS + 1, len(VALUES)])
def test_rows_are_those_of_the_array_and_many_are_one_request(far, count):
    file = Counted(save({"m": VALUES}))
    places = list(range(count))[::-1]
    np.testing.assert_array_equal(Arrays(file, far).rows("m", places), VALUES[places])
    assert file.asked == (1 if far and count > REQUESTS else count)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("count", [1, REQUESTS + 1])
def test_a_row_that_is_not_there_is_an_error(far, count):
    with pytest.raises((IndexError, ValueError)):
        Arrays(io.BytesIO(save({"m": VALUES})), far).rows("m", [len(VALUES)] * count)
