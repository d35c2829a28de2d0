"""Bits of HTML that several panels use."""

from __future__ import annotations

from typing import Any

from dashapp import html


def button(content: Any, *, look: str = "small-button", tip: str = "", **data: str) -> Any:
    """A button that `assets/gestures.js` answers: `drop="heads"` becomes `data-drop="heads"`. Any,
    for Dash's classes name no plain data among the children that they take."""
    named: dict[str, Any] = {f"data-{name}": value for name, value in data.items()}
    if tip:
        named |= {"aria-label": tip}
    return html.Button(content, className=look, title=tip, **named)
