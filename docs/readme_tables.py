"""Print the README's table of measures from the one definition (a test compares them).

    python docs/readme_tables.py
"""

from __future__ import annotations

from store.pattern_tables import HEAD_COLUMNS
from store.schema import IMPORTANCE, PROFILES, STRENGTH, Column

HEAD = "| measure | definition | unit | range | source |\n| --- | --- | --- | --- | --- |"


def measures() -> str:
    """Three Markdown tables: importance, strength and patterns."""
    return (f"**Which heads matter** (`head_scores`, one row per model, image, layer, head and "
            f"ablation)\n\n{_table(IMPORTANCE)}\n\n**How far they look** (`head_strength`, one row "
            f"per model, image, layer and head)\n\n{_table((*STRENGTH, *PROFILES))}\n\n"
            f"**What their attention looks like** (`heads`, one row per model, layer and head)"
            f"\n\n{_table(HEAD_COLUMNS)}")


def _table(columns: tuple[Column, ...]) -> str:
    return "\n".join([HEAD, *map(_row, columns)])


def _row(column: Column) -> str:
    cells = (f"`{column.name}`", column.text, column.unit, column.range, column.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(measures())
