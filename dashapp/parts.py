"""Bits of HTML that several panels use."""

from __future__ import annotations

from typing import Any

from dash import html


def button(content: Any, *, look: str = "small-button", tip: str = "", **data: str) -> html.Button:
    """A button that `assets/gestures.js` answers: `drop="heads"` becomes `data-drop="heads"`."""
    named: dict[str, Any] = {f"data-{name}": value for name, value in data.items()}
    if tip:
        named |= {"aria-label": tip}
    return html.Button(content, className=look, title=tip, **named)
