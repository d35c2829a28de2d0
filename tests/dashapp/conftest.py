"""One synthetic store for all tests of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashapp.facts import Facts
from store.reader import Store, open_store
from tests.synthetic import make_store


@pytest.fixture(scope="session")
def path(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("page") / "atlas")


@pytest.fixture(scope="session")
def store(path) -> Store:
    return open_store(path)


@pytest.fixture(scope="session")
def facts(store) -> Facts:
    return Facts.read(store)
