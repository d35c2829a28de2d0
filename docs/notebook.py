"""Runs the Python in docs/python-api.md and writes what it prints below each block.

    python docs/notebook.py demo-atlas

The store is the one that `headatlas demo` makes. `tests/test_notebook.py` runs the same blocks on
another store.
"""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

PAGE = Path(__file__).with_name("python-api.md")
STORE = '"demo-atlas"'
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.S)


def run(page: str, store: str) -> list[tuple[str, str]]:
    """Every block of Python, in order and in one namespace, and what it prints."""
    names: dict[str, object] = {}
    found = []
    for block in BLOCK.finditer(page):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block["code"].replace(STORE, repr(store)), PAGE.name, "exec"), names)
        found.append((block["code"], printed.getvalue()))
    return found


def written(page: str, store: str) -> str:
    """The page with what its blocks print on this store."""
    printed = iter(run(page, store))

    def block(_: re.Match[str]) -> str:
        code, said = next(printed)
        lines = "\n".join(line.rstrip() for line in said.splitlines())
        return f"```python\n{code}```\n" + (f"\n```text\n{lines}\n```\n" if lines else "")

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), sys.argv[1]))
