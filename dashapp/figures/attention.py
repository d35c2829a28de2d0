"""One head on one image: where a token looks, its links as lines, its matrix, its weights."""

from __future__ import annotations

import numpy as np

from dashapp import theme
from dashapp.attention import Matrix
from dashapp.chart import Figure, numbers
from dashapp.crop import Box
from dashapp.facts import Block

HEIGHT = 330
CLASS_COLOUR, PATCH_COLOUR = "#0072b2", "#d55e00"
"""Links to or from prefix tokens, and links between patches."""

HEAT = ((0.0, "rgba(17,24,39,0.70)"), (0.15, "rgba(60,20,80,0.62)"), (0.5, "rgba(213,94,0,0.60)"),
        (1.0, "rgba(255,226,90,0.72)"))
TARGETS = 5
MOST_LINES = 3000
MOST_CELLS = 384
BARS = 60
UNSEEN, GREY = "#eceff2", ("#ffffff", "#a3abb2")
INSIDE = ("#a9cbe0", "#6898c8", "#4a4795", "#26123a")
STEPS = 126
"""Shades of a cell of the matrix: 0 unseen, 1.. outside the drawn range, 1 + STEPS.. inside."""


def look(matrix: Matrix, token: int, looks: str, image: int, box: Box) -> Figure:
    """The image twice: with the token and its strongest targets marked, and under its weights."""
    block, values = matrix.block, matrix.along(token, looks)
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    grid = values[block.prefix:].reshape(block.grid_h, block.grid_w)
    figure = theme.bare(HEIGHT)
    figure["data"] = [_cells(grid, block.prefix, block.grid_w, "", see_through=True),
                      _cells(grid, block.prefix, block.grid_w, "2")]
    if block.prefix:
        names = [block.token(i) for i in range(block.prefix)]
        figure["data"].append(_cells(values[None, :block.prefix], 0, block.prefix, "3") | {
            "text": [names], "hovertemplate": "%{text}<br>weight %{z:.3~g}<extra></extra>"})
    figure["layout"] |= {
        "margin": {"l": 8, "r": 8, "t": 20, "b": 8}, "dragmode": False,
        "coloraxis": {"cmin": 0, "cmax": top or 1.0, "colorscale": [list(c) for c in HEAT],
                      "colorbar": {**theme.BAR, "title": theme.bar_title("weight"), "nticks": 5,
                                   "lenmode": "pixels", "len": 230}},
        "images": [_picture(image, box, block, axis) for axis in ("", "2")],
        "annotations": _titles(block), "shapes": _marks(values, token, block),
        **_look_axes(block)}
    return figure


def _look_axes(block: Block) -> dict:
    bare = {"visible": False, "fixedrange": True}
    top = 0.86 if block.prefix else 1.0
    across, down = [-0.5, block.grid_w - 0.5], [block.grid_h - 0.5, -0.5]
    panes = {}
    for axis, domain in (("", [0.0, 0.485]), ("2", [0.515, 1.0])):
        panes[f"xaxis{axis}"] = {**bare, "domain": domain, "range": across, "anchor": f"y{axis}",
                                 "constrain": "domain"}
        panes[f"yaxis{axis}"] = {**bare, "domain": [0.0, top], "range": down, "anchor": f"x{axis}",
                                 "scaleanchor": f"x{axis}", "constrain": "domain",
                                 "constraintoward": "top"}
    if block.prefix:
        panes["xaxis3"] = {**bare, "domain": [0.62, 1.0], "anchor": "y3",
                           "range": [-0.5, max(block.prefix, 8) - 0.5]}
        panes["yaxis3"] = {**bare, "domain": [0.91, 1.0], "range": [-0.5, 0.5], "anchor": "x3"}
    return panes


def _picture(image: int, box: Box, block: Block, axis: str) -> dict:
    """The thumbnail, laid so that what the model saw covers the grid of patches."""
    wide, high = block.grid_w / (box.right - box.left), block.grid_h / (box.bottom - box.top)
    return {"source": f"thumbnail/{image}", "xref": f"x{axis}", "yref": f"y{axis}",
            "sizing": "stretch", "x": -box.left * wide - 0.5, "y": -box.top * high - 0.5,
            "sizex": wide, "sizey": high, "xanchor": "left", "yanchor": "top", "layer": "below"}


def _cells(values: np.ndarray, first: int, columns: int, axis: str, see_through: bool = False
           ) -> dict:
    clear = "rgba(0,0,0,0)"
    colours: dict = {"colorscale": [[0, clear], [1, clear]], "showscale": False} \
        if see_through else {"coloraxis": "coloraxis"}
    return {"type": "heatmap", "z": numbers(values), "xaxis": f"x{axis}", "yaxis": f"y{axis}",
            **colours, "meta": {"tokens": {"first": first, "columns": columns}},
            "hoverongaps": True,
            "hovertemplate": "patch %{y}, %{x}<br>weight %{z:.3~g}<extra></extra>"}


def _titles(block: Block) -> list[dict]:
    if not block.prefix:
        return []
    others = f", {block.prefix - 1} other prefix tokens" if block.prefix > 1 else ""
    text = f"class token{others}" if block.class_token else "prefix tokens"
    return [{"text": text, "x": 0.61, "y": 0.955, "xref": "paper", "yref": "paper",
             "xanchor": "right", "yanchor": "middle", "showarrow": False,
             "font": {"size": 11, "color": theme.MUTED}}]


def _marks(values: np.ndarray, token: int, block: Block) -> list[dict]:
    """Frames: a thin one around each prefix token, a blue one around the picked token on both
    images, orange ones around its strongest targets on the first."""
    known = np.where(np.isfinite(values), values, -1.0)
    targets = [int(t) for t in np.argsort(-known, kind="stable")[:TARGETS]
               if known[t] > 0 and t >= block.prefix]
    return [*(frame for number in range(block.prefix)
              for frame in _frames(number, block, theme.FAINT, 1, ())),
            *_frames(token, block, CLASS_COLOUR, 3, ("", "2")),
            *(frame for target in targets
              for frame in _frames(target, block, PATCH_COLOUR, 2, ("",), 0.12))]


def _frames(token: int, block: Block, colour: str, width: float, axes: tuple[str, ...],
            inset: float = 0.0) -> list[dict]:
    """A rectangle around a token in each of these panes; a prefix token has a pane of its own."""
    if token < block.prefix:
        row, column, axes = 0, token, ("3",)
    else:
        row, column = divmod(token - block.prefix, block.grid_w)
    return [{"type": "rect", "xref": f"x{axis}", "yref": f"y{axis}", "name": "token",
             "x0": column - 0.5 + inset, "x1": column + 0.5 - inset, "y0": row - 0.5 + inset,
             "y1": row + 0.5 - inset, "line": {"color": colour, "width": width}} for axis in axes]


def lines(matrix: Matrix, low: float, high: float, token: int, looks: str) -> tuple[Figure, int]:
    """Queries above, keys below, a line per link in the range; and how many links are in it."""
    block, weights = matrix.block, matrix.weights
    query, key = np.nonzero((weights >= low) & (weights <= high))
    strength, count = weights[query, key], len(query)
    strongest = np.sort(np.argsort(-strength, kind="stable")[:MOST_LINES])
    query, key, strength = query[strongest], key[strongest], strength[strongest]
    figure = theme.bare(HEIGHT)
    of_class = (query < block.prefix) | (key < block.prefix)
    picked = (key if looks == "from" else query) == token
    fades = np.digitize(strength / max(matrix.top, 1e-9), [0.25, 0.6])
    for name, own, colour in (("between patches", ~of_class, PATCH_COLOUR),
                              ("to or from prefix tokens", of_class, CLASS_COLOUR)):
        looked = [(own & (fades == fade) & ~picked, theme.tint(colour, alpha), 1.0)
                  for fade, alpha in enumerate((0.22, 0.45, 0.8))]
        figure["data"] += [_links(query[chosen], key[chosen], shade, width, name)
                           for chosen, shade, width in [*looked, (own & picked, colour, 2.2)]]
    figure["data"] += [_tokens(block, tokens, y, token if (y == 1) == (looks == "at") else None)
                       for y, tokens in ((1, len(weights)), (0, block.tokens))]
    step = block.grid_w * max(1, -(-block.grid_h // 10))
    starts = list(range(block.prefix, block.tokens, step))
    figure["layout"] |= {
        "dragmode": "zoom", "margin": {"l": 62, "r": 10, "t": 8, "b": 42},
        "xaxis": {"title": {"text": "token: " + "prefix, then " * bool(block.prefix)
                            + "patches row by row (ticks: row of patches)"},
                  "tickvals": starts, "showgrid": False,
                  "ticktext": [str((s - block.prefix) // block.grid_w) for s in starts],
                  "range": [-0.02 * block.tokens - 1, 1.02 * block.tokens]},
        "yaxis": {"tickvals": [0, 1], "ticktext": ["keys", "queries"], "range": [-0.06, 1.06],
                  "fixedrange": True, "showgrid": False, "ticks": "", "title": {"text": "tokens"}}}
    return figure, count


def _links(query: np.ndarray, key: np.ndarray, colour: str, width: float, name: str) -> dict:
    x = np.full((len(query), 3), np.nan, np.float32)
    y = np.full((len(query), 3), np.nan, np.float32)
    x[:, 0], x[:, 1], y[:, 0], y[:, 1] = query, key, 1, 0
    return {"type": "scattergl", "x": numbers(x.ravel()), "y": numbers(y.ravel()),
            "mode": "lines", "line": {"color": colour, "width": width}, "hoverinfo": "skip",
            "name": name, "meta": {"links": len(query)}}


def _tokens(block: Block, count: int, y: int, picked: int | None) -> dict:
    number = np.arange(count)
    of_class = number < block.prefix
    size = np.where(number == picked, 11, np.where(of_class, 6, 3))
    return {"type": "scatter", "x": numbers(number, np.uint16),
            "y": numbers(np.full(count, y), np.uint8), "mode": "markers",
            "text": [block.token(i) for i in range(count)],
            "marker": {"symbol": "square", "size": numbers(size, np.uint8),
                       "color": np.where(of_class, CLASS_COLOUR, theme.MUTED).tolist()},
            "hovertemplate": "%{text}<extra></extra>",
            "meta": {"tokens": {"first": 0, "columns": count, "along": "x"}}}


def matrix(found: Matrix, low: float, high: float, token: int, looks: str) -> Figure:
    """The whole matrix; prefix rows and columns are widened, patches pooled (by their largest)
    where there are more than a screen shows."""
    block = found.block
    pool = -(-(block.tokens - block.prefix) // MOST_CELLS)
    z = _pooled(_shades(found, low, high), block, pool)
    rows, columns = (_edges(block, pool, count) for count in z.shape)
    figure = theme.bare(HEIGHT)
    figure["data"] = [
        {"type": "heatmap", "z": numbers(z, np.uint8), "x": numbers(columns, np.float64),
         "y": numbers(rows, np.float64), "zmin": 0, "zmax": 2 * STEPS, "colorscale": _shading(),
         "showscale": False, "hoverinfo": "none", "meta": {"matrix": {
             "prefix": block.prefix, "pool": pool, "top": found.top, "steps": STEPS,
             "names": [block.token(i) for i in range(block.tokens)]}}},
        _weight_bar(found.top)]
    figure["layout"] |= {
        "shapes": _picked_line(rows, columns, block, pool, token, looks),
        "dragmode": "zoom", "margin": {"l": 56, "r": 8, "t": 8, "b": 42},
        "xaxis": {**_matrix_axis(columns, block, pool), "title": {"text": "key (row of patches)"},
                  "constrain": "domain"},
        "yaxis": {**_matrix_axis(rows, block, pool), "title": {"text": "query (row of patches)"},
                  "range": [float(rows[-1]), float(rows[0])],
                  **({"scaleanchor": "x", "constrain": "domain"} if len(rows) > 2 else {})}}
    return figure


def _shades(found: Matrix, low: float, high: float) -> np.ndarray:
    """uint8[query, key]: sqrt(weight / largest) in STEPS, above STEPS where it is in the range."""
    share = np.sqrt(np.nan_to_num(found.weights) / (found.top or 1.0))
    inside = (found.weights >= low) & (found.weights <= high)
    shades = 1 + np.rint((STEPS - 1) * share) + STEPS * inside
    return np.where(np.isfinite(found.weights), shades, 0).astype(np.uint8)


def _pooled(shades: np.ndarray, block: Block, pool: int) -> np.ndarray:
    """The largest shade of each square of `pool` x `pool` patches; prefix tokens as they are."""
    for axis in (0, 1):
        if pool > 1 and shades.shape[axis] > block.prefix:
            starts = [*range(block.prefix), *range(block.prefix, shades.shape[axis], pool)]
            shades = np.maximum.reduceat(shades, starts, axis=axis)
    return shades


def _edges(block: Block, pool: int, count: int) -> np.ndarray:
    """float[count + 1]: where the cells begin and end, in patches; prefix tokens are wider."""
    cells = block.tokens - block.prefix
    wide = max(1.0, min(cells / 24, cells / 6 / max(1, block.prefix)))
    prefix = np.arange(min(block.prefix, count) + 1) * wide
    return np.concatenate([prefix, prefix[-1] + pool * np.arange(1, count - len(prefix) + 2)])


def _shading() -> list[list]:
    last = 2 * STEPS
    grey = [[(1 + i * (STEPS - 1)) / last, c] for i, c in enumerate(GREY)]
    inside = [[(1 + STEPS + i * (STEPS - 1) / (len(INSIDE) - 1)) / last, c]
              for i, c in enumerate(INSIDE)]
    return [[0.0, UNSEEN], [0.5 / last, UNSEEN], [0.5 / last, GREY[0]], *grey, *inside]


def _weight_bar(top: float) -> dict:
    """A trace without points that brings the colour bar of drawn weights."""
    values = np.linspace(0, 1, 5)
    return {"type": "scatter", "x": [None], "y": [None], "mode": "markers", "hoverinfo": "skip",
            "marker": {
                "color": [0.0], "cmin": 0, "cmax": 1, "colorscale": theme.scale(INSIDE),
                "showscale": True, "colorbar": {
                    **theme.BAR, "tickvals": values.tolist(), "title": theme.bar_title("weight"),
                    "ticktext": [f"{top * v * v:.2g}" for v in values], "lenmode": "pixels",
                    "len": 230}}}


def _matrix_axis(edges: np.ndarray, block: Block, pool: int) -> dict:
    """Ticks at the first patch of some rows of patches, and at the class token."""
    first = float(edges[min(block.prefix, len(edges) - 1)])
    count = len(edges) - 1 - block.prefix
    rows = range(0, block.grid_h, max(1, -(-block.grid_h // 8))) if count > 0 else []
    head = [(float(edges[:2].mean()), "class" if block.class_token else "prefix")] \
        if block.prefix else []
    ticks = head + [(first + row * block.grid_w, str(row)) for row in rows
                    if row or not head]
    return {"showgrid": False, "tickvals": [t for t, _ in ticks], "ticktext": [t for _, t in ticks],
            "range": [float(edges[0]), float(edges[-1])]}


def _picked_line(rows: np.ndarray, columns: np.ndarray, block: Block, pool: int, token: int,
                 looks: str) -> list[dict]:
    """A frame around the picked token's row, or its column."""
    cell = token if token < block.prefix else block.prefix + (token - block.prefix) // pool
    edges, other = (columns, rows) if looks == "from" else (rows, columns)
    if cell + 1 >= len(edges):
        return []
    side, across = ("x", "y") if looks == "from" else ("y", "x")
    return [{"type": "rect", "line": {"color": PATCH_COLOUR, "width": 1.5}, "name": "token",
             f"{side}0": float(edges[cell]), f"{side}1": float(edges[cell + 1]),
             f"{across}0": float(other[0]), f"{across}1": float(other[-1])}]


def weights(found: Matrix, low: float, high: float) -> Figure:
    """How many links have how much weight, on a log scale; those in the range are dark."""
    top = found.top or 1.0
    edges = np.linspace(0, top, BARS + 1)
    counts, _ = np.histogram(found.seen, edges)
    inside = (edges[1:] >= low) & (edges[:-1] <= high)
    figure = theme.bare(HEIGHT)
    figure["data"] = [{
        "type": "bar", "x": numbers((edges[1:] + edges[:-1]) / 2, np.float64),
        "y": numbers(counts, np.float64), "width": top / BARS, "meta": {"weights": True},
        "customdata": numbers(np.stack([edges[:-1], edges[1:]], -1)),
        "hovertemplate": "%{customdata[0]:.3~g} to %{customdata[1]:.3~g}<br>%{y:,} links"
                         "<extra></extra>",
        "marker": {"color": np.where(inside, INSIDE[2], theme.FAINT).tolist(),
                   "line": {"width": 0}},
        "unselected": {"marker": {"opacity": 1}}}]
    figure["layout"] |= {
        "shapes": [{"type": "rect", "xref": "x", "yref": "paper", "name": "drawn", "y0": 0, "y1": 1,
                    "x0": max(low, 0), "x1": min(high, top), "layer": "below",
                    "line": {"width": 1, "color": theme.MUTED, "dash": "dot"},
                    "fillcolor": "rgba(104,152,200,0.14)"}],
        "dragmode": "select", "selectdirection": "h", "bargap": 0,
        "margin": theme.margins(t=8),
        "xaxis": {"title": {"text": "weight of a link"}, "range": [0, top],
                  "exponentformat": "power"},
        "yaxis": {"title": {"text": "links (log scale)"}, "type": "log", "exponentformat": "power",
                  "range": [-0.3, float(np.log10(max(counts.max(initial=1), 1))) + 0.15],
                  "dtick": 1, "fixedrange": True}}
    return figure
