"""Figures as the page draws them: packed numbers unpacked, and every property checked by Plotly."""

from __future__ import annotations

import base64

import numpy as np
import plotly.graph_objects as go

from dashapp.chart import Figure


def read(figure: Figure) -> go.Figure:
    """The figure with its arrays as NumPy's; raises ValueError for a property that Plotly does not
    have."""
    assert isinstance(figure, dict)
    go.Figure(figure)
    return go.Figure({"data": [_unpacked(trace) for trace in figure["data"]],
                      "layout": figure["layout"]})


def _unpacked(trace: dict) -> dict:
    trace = _decoded(trace)
    meta = trace.get("meta", {})
    if "said" in meta:
        said = meta["said"]
        which = np.frombuffer(_bytes(said["which"]), np.uint8)
        texts = np.array(said["texts"], object)[which]
        trace["hovertemplate"] = texts.reshape(said["rows"], -1) if said["rows"] else texts
    packed = meta.get("packed", {})
    trace |= {axis: _values(packed[axis]) for axis in "xy" if axis in packed}
    if "colour" in packed:
        trace["marker"] = {**trace["marker"], "color": _values(packed["colour"])}
    if "first" in packed:
        trace["customdata"] = np.arange(packed["first"], packed["first"] + meta["dots"])
    if "kept" in packed:
        kept = np.unpackbits(np.frombuffer(_bytes(packed["kept"]), np.uint8), bitorder="little")
        trace["selectedpoints"] = np.flatnonzero(kept[:meta["dots"]]).tolist()
    return trace


def _decoded(value):
    """With arrays in place of what `chart.numbers` makes of them."""
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "bdata" not in value:
        return {k: _decoded(v) for k, v in value.items()}
    array = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    return array.reshape([int(n) for n in value.get("shape", str(array.size)).split(",")])


def _values(packed: dict) -> np.ndarray:
    """What `chart.codes` packed."""
    planes = np.frombuffer(_bytes(packed["codes"]), np.uint8).reshape(-(-packed["bits"] // 8), -1)
    code = sum(plane.astype(int) << 8 * i for i, plane in enumerate(planes))
    values = packed["low"] + packed["step"] * code
    return np.where(code == 2 ** packed["bits"] - 1, np.nan, values)


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text)
