"""The Python in docs/python-api.md runs, on another store than the one it was printed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.notebook import BLOCK, PAGE, run
from tests.synthetic import MODELS, make_store


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return run(PAGE.read_text(), str(make_store(tmp_path_factory.mktemp("notebook") / "atlas")))


def test_every_block_prints_as_many_lines_as_the_page_shows(printed) -> None:
    shown = [block["printed"] for block in BLOCK.finditer(PAGE.read_text())]
    assert len(shown) == len(printed) > 8
    for (code, said), there in zip(printed, shown, strict=True):
        assert said and there, code
        assert len(said.splitlines()) == len(there.splitlines()), code


def test_it_is_about_the_store_that_is_opened(printed) -> None:
    assert printed[0][1] == f"{tuple(MODELS)}\n"


def test_the_page_names_no_place_of_the_machine_it_was_printed_on() -> None:
    assert str(Path.home()) not in PAGE.read_text()
    assert '"demo-atlas"' in PAGE.read_text()
