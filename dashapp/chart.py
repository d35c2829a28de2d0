"""Figures as plain data, in the form that plotly.js reads: `{"data": [trace, ...], "layout": {}}`.

Plotly's Python classes check every property of a figure, and that takes longer than answering the
question that it shows; the tests make these checks instead (`go.Figure(figure)`).
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

Figure = dict[str, Any]

_TYPES = {"float64": "f8", "float32": "f4", "int32": "i4", "uint32": "u4", "int16": "i2",
          "uint16": "u2", "int8": "i1", "uint8": "u1"}


def numbers(values: np.ndarray, kind: type[np.generic] = np.float32) -> dict[str, str]:
    """The array as plotly.js reads it from base64: a quarter of the bytes of digits, and no loop.

    Up to three axes. NaN is a gap. As `customdata` it reaches hover templates and Plotly's own
    events (typed arrays there), but not Dash's `clickData`, which the page does not use.
    """
    array = np.ascontiguousarray(values, kind)
    packed = {"dtype": _TYPES[array.dtype.name],
              "bdata": base64.b64encode(array.tobytes()).decode("ascii")}
    return packed if array.ndim == 1 else packed | {"shape": ", ".join(map(str, array.shape))}


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


def say(trace: dict, texts: np.ndarray) -> None:
    """Give a trace hover templates, object[...] of the axes of its marks, few of them distinct.

    Where they differ, the page makes the list of them (`said` in the trace's meta).
    """
    few = list(dict.fromkeys(texts.flat))
    if len(few) == 1:
        trace["hovertemplate"] = few[0]
        return
    place = {text: i for i, text in enumerate(few)}
    which = np.fromiter((place[text] for text in texts.flat), np.uint8, texts.size)
    trace["meta"] = {**trace.get("meta", {}), "said": {
        "texts": few, "which": _text(which), "rows": len(texts) if texts.ndim > 1 else 0}}


def _text(array: np.ndarray) -> str:
    """Base64 without `/`, which JSON for a page writes as six characters."""
    return base64.urlsafe_b64encode(array.tobytes()).decode("ascii")
