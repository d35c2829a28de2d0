"""Figures as plain data, in the form that plotly.js reads: `{"data": [trace, ...], "layout": {}}`.

Plotly's Python classes check every property of a figure, and that takes longer than answering the
question that it shows; the tests make these checks instead (`go.Figure(figure)`).
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from functools import cached_property
from typing import Any

import numpy as np
import orjson

Figure = dict[str, Any]

LONG = 1500
"""Characters from which packed numbers are worth holding."""

LIST = "\x02"
"""What a held text begins with that is a list, as JSON (`assets/held.js`)."""


class Held(str):
    """A text of a trace that a page keeps, under its name, for the figures to come (`held.py`)."""

    @cached_property
    def name(self) -> str:
        """A hash of it."""
        return hashlib.blake2b(self.encode(), digest_size=8).hexdigest()


class HeldList(list):
    """A list that a page keeps. Not to be changed."""

    @cached_property
    def json(self) -> Held:
        return Held(LIST + orjson.dumps(list(self)).decode())


_TYPES: dict[type[np.generic], str] = {
    np.float64: "f8", np.float32: "f4", np.int32: "i4", np.uint32: "u4", np.int16: "i2",
    np.uint16: "u2", np.int8: "i1", np.uint8: "u1"}
_SAFE = bytes.maketrans(b"+/", b"-_")


def numbers(values: np.ndarray, kind: type[np.generic] = np.float32) -> dict[str, str]:
    """The array as plotly.js reads it from base64: a quarter of the bytes of digits, and no loop.

    Up to three axes. NaN is a gap. As `customdata` it reaches hover templates and Plotly's own
    events (typed arrays there), but not Dash's `clickData`, which the page does not use.
    """
    packed = {"dtype": _TYPES[kind], "bdata": _packed(np.ascontiguousarray(values, kind))}
    return packed if values.ndim == 1 else packed | {"shape": ", ".join(map(str, values.shape))}


def codes(values: np.ndarray, bits: int, step: float | None = None) -> dict[str, Any]:
    """float[n] as whole numbers of so many bits, for the page to turn into low + step * code.

    Without `step` they spread over all codes; the largest code is a gap. Low bytes come before
    high ones: that compresses better. For the dots of the overview, of which there may be a hundred
    thousand.
    """
    gap = 2 ** bits - 1
    known = np.isfinite(values)
    whole = bool(known.all())
    found = values if whole else values[known]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 0.0)
    step = step or (high - low) / (gap - 1) or 1.0
    code = np.full(len(values), gap, np.uint16)
    code[slice(None) if whole else known] = (found - low) * (1 / step) + 0.5
    planes = [(code >> shift).astype(np.uint8) for shift in range(0, bits, 8)]
    return {"codes": _text(np.concatenate(planes)), "bits": bits, "low": low, "step": step}


def bits(which: np.ndarray) -> str:
    """bool[n] as text, eight in a byte, the first in its lowest bit."""
    return _text(np.packbits(which, bitorder="little"))


def say(trace: dict, texts: list[str], which: np.ndarray) -> None:
    """Give a trace hover templates: one of few texts for each of its marks, `which` one as
    uint8[...] of the axes of the marks.

    Where they differ, the page makes the list of them (`said` in the trace's meta).
    """
    used = np.flatnonzero(np.bincount(which.ravel(), minlength=len(texts)))
    if len(used) == 1:
        trace["hovertemplate"] = texts[used[0]]
        return
    place = np.zeros(len(texts), np.uint8)
    place[used] = np.arange(len(used))
    trace["meta"] = {**trace.get("meta", {}), "said": {
        "texts": [texts[i] for i in used], "which": _text(place[which]),
        "rows": len(which) if which.ndim > 1 else 0}}


def _text(array: np.ndarray) -> str:
    """Base64 without `/`, which JSON for a page writes as six characters."""
    return _packed(array, _SAFE)


def _packed(array: np.ndarray, letters: bytes | None = None) -> str:
    """Base64, with other letters; a long one is worth holding."""
    text = b2a_base64(array.tobytes(), newline=False).translate(letters)
    return text.decode() if len(text) < LONG else Held(text, "ascii")
