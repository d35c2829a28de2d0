"""While no image is focused: the images for which the chosen heads matter most."""

from __future__ import annotations

from dash import html

from dashapp.state import State
from store import queries
from store.queries import Ask
from store.schema import CLEAN_PASS, Column, measure

MOST = 9


def hardest(ask: Ask, state: State) -> list:
    """Thumbnails to click, most affected first, each with its number; a hint if there are none."""
    rows = queries.hardest(ask, state.importance, MOST).rows(ask.store).to_pylist() \
        if state.models else []
    if not rows:
        return [html.P("Click a dot, or type an image's number or path.", className="hint")]
    said = _sentence(measure(state.importance), bool(ask.selection.heads))
    return [html.P(f"Click a dot, or one of these: {said}", className="hint"),
            html.Div([_tile(row) for row in rows], className="tiles")]


def _sentence(column: Column, chosen: bool) -> str:
    extreme = "lowest" if column.important < 0 else "largest"
    heads = "the chosen heads" if chosen else "all heads"
    pruned = "" if column.name in CLEAN_PASS else ", pruned one at a time"
    return f"{extreme} mean {column.label} over {heads}{pruned}."


def _tile(row: dict):
    label = "" if row["label"] is None else f", {row['label']}"
    tip = f"image {row['image']}{label}: {row['effect']:.3g} ({row['path']})"
    return html.Button(
        [html.Img(src=f"thumbnail/{row['image']}", alt=tip), html.Span(f"{row['effect']:.2g}")],
        title=tip, **{"data-focus": str(row["image"])})  # type: ignore[arg-type]
