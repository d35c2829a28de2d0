"""What a browser holds already is named instead of sent again.

A filter of images leaves most arrays of a figure as they were, the hundred thousand places of the
overview's dots first of all. Every long text in a trace (arrays travel as text) has a short name, a
hash of it; the page says which names it holds, and gets the others with their texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import orjson

from dashapp.chart import Figure

LONG = 1500
"""Characters from which a text has a name."""

KEEP, HELD = "\x01keep", "\x01held"
"""First words of a text that the page is to keep under the name that follows, and of one that it
holds under that name. `assets/held.js` reads them."""


def packed(figure: Figure, held: Collection[str]) -> str:
    """The figure as JSON, for a page that holds the texts of these names. Dash would look at every
    number of it before it does the same."""
    return orjson.dumps(without_held(figure, held), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def without_held(figure: Figure, held: Collection[str]) -> Figure:
    """The figure for a page that holds the texts of these names."""
    return {**figure, "data": [_named(trace, held) for trace in figure["data"]]}


def _named(value: Any, held: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _named(part, held) for key, part in value.items()}
    if not isinstance(value, str) or len(value) < LONG:
        return value
    name = hashlib.blake2b(value.encode(), digest_size=8).hexdigest()
    return f"{HELD} {name}" if name in held else f"{KEEP} {name} {value}"
