"""The import law: precompute → store ← dashapp; no torch where a page is served; small rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("store", "precompute", "dashapp")
FORBIDDEN = {
    "store": {"precompute", "dashapp", "torch", "timm", "sklearn", "dash", "plotly", "pandas"},
    "dashapp": {"precompute", "torch", "timm", "sklearn", "pandas", "PIL"},
    "precompute": {"dashapp", "dash", "plotly"},
}
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def _imports(file: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_import_law_holds(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    assert not _imports(file) & FORBIDDEN[package]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms_stay_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name
            assert not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(node)), (
                f"{node.name} imports inside")
