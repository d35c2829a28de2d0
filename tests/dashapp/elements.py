"""Elements as Dash's own classes, which check every property."""

from __future__ import annotations

from typing import Any

from dash import html


def read(content: Any) -> Any:
    """What a panel shows, with components in place of plain data; raises TypeError for a property
    that an element does not have."""
    if isinstance(content, list | tuple):
        return [read(one) for one in content]
    if not isinstance(content, dict):
        return content
    assert content.keys() == {"type", "namespace", "props"}
    assert content["namespace"] == html.Div._namespace
    props = {name: read(value) if name == "children" else value
             for name, value in content["props"].items()}
    return getattr(html, content["type"])(**props)
