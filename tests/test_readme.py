"""What the README says is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headatlas
from docs.readme_tables import measures

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_measures_is_the_schema_s() -> None:
    assert measures() in README


def test_every_command_is_explained() -> None:
    assert all(f"`headatlas {command.name} " in README for command in headatlas.COMMANDS)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"),
                                  *ROOT.glob("precompute/zoo/*.md")], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link
