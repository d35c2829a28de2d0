"""Patterns as small pictures: all heads of a model on one sheet, so that each is fetched once.

A sheet has a cell per head (layers down, heads across) or per cluster; the page shows a cell of it
by CSS, and a hover costs no request. Darkness is sqrt(share / uniform share) up to DARKEST, the
same for all pictures, so that they can be compared.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlencode

import numpy as np

from dashapp import html, theme
from dashapp.facts import Facts, Model
from store import pattern_queries
from store.canon import KINDS, decode
from store.reader import Store
from store.selection import HeadKey

DARKEST = 4.0
_LEVELS = 254
"""Colours of a picture; one more, the last, is transparent."""

READING = ("Darkness: √(share of attention ÷ uniform share), white 0, darkest from "
           f"{DARKEST:.0f} on; the ring is the patch that looks.")


def head_sheet(store: Store, model: Model, kind: str, image: int | None) -> bytes | None:
    """PNG of a model's patterns, their means or those on one image; None if it has none."""
    if image is None:
        rows = pattern_queries.mean_patterns(model.name, kind).rows(store).to_pylist()
        found = {(r["layer"], r["head"]): np.asarray(r["pattern"], float) for r in rows}
    else:
        rows = pattern_queries.patterns_at(model.name, kind, image).rows(store).to_pylist()
        found = {(r["layer"], r["head"]): decode(KINDS[kind], np.asarray(r["codes"], np.uint8))
                 for r in rows}
    return _sheet(found, kind, model.layers, model.heads) if found else None


def prototype_sheet(store: Store, kind: str) -> bytes | None:
    """PNG of the prototypes of all clusters, in a row; None if there are none."""
    rows = pattern_queries.prototypes(kind).rows(store).to_pylist()
    found = {(0, r["cluster"]): np.asarray(r["prototype"], float) for r in rows}
    return _sheet(found, kind, 1, 1 + max(r["cluster"] for r in rows)) if rows else None


def _sheet(patterns: Mapping[tuple[int, int], np.ndarray], kind: str, rows: int, columns: int
           ) -> bytes:
    side, cells = KINDS[kind].side, KINDS[kind].cells
    sheet = np.full((rows * side, columns * side), 255, np.uint8)
    for (row, column), pattern in patterns.items():
        level = np.sqrt(pattern[:cells] * cells).clip(0, DARKEST) / DARKEST * _LEVELS
        sheet[row * side:(row + 1) * side, column * side:(column + 1) * side] = \
            np.rint(level).reshape(side, side)
    return png(sheet)


def png(levels: np.ndarray) -> bytes:
    """A PNG of uint8[height, width]: 0 to 254 from white to dark, 255 transparent."""
    height, width = levels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter, 0
    lines[:, 1:] = levels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", _PALETTE), (b"tRNS", b"\xff" * 255 + b"\0"),
             (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data
        + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)


def _palette() -> bytes:
    stops = np.array([[int(c[i:i + 2], 16) for i in (1, 3, 5)]
                      for c in ("#ffffff", *theme.SEQUENTIAL)], float)
    at, where = np.linspace(0, len(stops) - 1, _LEVELS + 1), np.arange(len(stops))
    mixed = np.stack([np.interp(at, where, stops[:, i]) for i in range(3)], -1)
    return np.rint(np.vstack([mixed, [255, 255, 255]])).astype(np.uint8).tobytes()


_PALETTE = _palette()


@lru_cache(256)
def head_url(model: str, kind: str, image: int | None) -> str:
    """Where the page finds `head_sheet`."""
    at = {} if image is None else {"image": image}
    return "pictures/heads.png?" + urlencode({"model": model, "kind": kind, **at})


def head_picture(facts: Facts, key: HeadKey, kind: str, scale: int) -> html.Element:
    """A head's mean pattern, a cell of it `scale` pixels wide."""
    model, layer, head = key
    found = facts.model(model)
    return picture(head_url(model, kind, None), (layer, head), found.layers, kind, scale)


def picture(url: str, place: tuple[int, int], rows: int, kind: str, scale: int) -> html.Element:
    """The pattern at (row, column) of a sheet of so many rows, a cell of it `scale` pixels wide."""
    size = scale * KINDS[kind].side
    return html.Span(className=f"picture {kind}", style={
        "width": size, "height": size, "backgroundImage": f"url('{url}')",
        "backgroundSize": f"auto {size * rows}px",
        "backgroundPosition": f"{-size * place[1]}px {-size * place[0]}px"})
