"""Elements of the page as plain data, in the form that Dash's renderer reads.

Dash's own classes check every property of an element, and only plain data becomes JSON without
another walk over it in Python: with them, it takes more than twenty times as long. The tests make
these checks instead (`tests/dashapp/elements.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Element = dict[str, Any]


def _named(name: str) -> Callable[..., Element]:
    def element(children: Any = None, **props: Any) -> Element:
        return {"type": name, "namespace": "dash_html_components",
                "props": {"children": children, **props}}
    return element


B, Button, Code, Details, Div, Figcaption, Figure, Img, P, Pre, Span, Strong, Summary = map(
    _named, ("B", "Button", "Code", "Details", "Div", "Figcaption", "Figure", "Img", "P", "Pre",
             "Span", "Strong", "Summary"))
Table, Tbody, Td, Th, Thead, Tr = map(_named, ("Table", "Tbody", "Td", "Th", "Thead", "Tr"))
