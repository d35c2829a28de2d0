"""What a browser holds already is named instead of sent again.

A filter of images leaves most arrays of a figure as they were, the hundred thousand places of the
overview's dots first of all. A long text in a trace (arrays travel as text) and a list that stays
as it is have a short name, a hash; the page says which names it holds, and gets the others with
their texts.
"""

from __future__ import annotations

from collections.abc import Collection

import orjson

from dashapp.chart import Figure, Held, HeldList

KEEP, HELD = "\x01keep", "\x01held"
"""First words of a text that the page is to keep under the name that follows, and of one that it
holds under that name. `assets/held.js` reads them."""

# Whatever says that it may be held comes to `named`; so nobody looks through the figure for it.
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_SUBCLASS


def packed(figure: Figure, held: Collection[str]) -> str:
    """The figure as JSON, for a page that holds the texts of these names. Dash would look at every
    number of it before it does the same."""
    known = set(held)

    def named(part: object) -> str:
        text = part.json if isinstance(part, HeldList) else part
        if not isinstance(text, Held):
            raise TypeError(f"no JSON: {type(part).__name__}")
        if text.name in known:
            return f"{HELD} {text.name}"
        known.add(text.name)
        return f"{KEEP} {text.name} {text}"

    return orjson.dumps(figure, named, _OPTIONS).decode()
