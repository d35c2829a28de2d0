"""Tiles to click: images for which the chosen heads matter most, images of which attention is kept,
clusters of patterns, heads that are alike."""

from __future__ import annotations

import json

from dashapp import html, theme
from dashapp.facts import Facts
from dashapp.figures.panes import short_name
from dashapp.parts import button
from dashapp.pictures import head_picture, picture
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
        title=tip, **{"data-focus": str(row["image"])})


def kept(images: tuple[int, ...], focus: int | None, most: int = 24) -> html.Element:
    """A thumbnail per image of which attention is kept, the focused one marked."""
    tiles = [button(html.Img(src=f"thumbnail/{i}", alt=""), look="now" if i == focus else "",
                    tip=f"image {i}", focus=str(i)) for i in images[:most]]
    more = f"and {len(images) - most:,} more" if len(images) > most else ""
    return html.Div([*tiles, html.Span(more, className="hint")], className="strip")


def prototypes(rows: list[dict], kind: str, facts: Facts, chosen: bool) -> html.Element:
    """A tile per cluster of `pattern_queries.clusters`: its prototype, name and heads by model.
    Where heads are chosen, clusters without any of them are greyed."""
    found: dict[int, list[dict]] = {}
    for row in rows:
        found.setdefault(row["cluster"], []).append(row)
    return html.Div([_cluster(parts, kind, facts, chosen) for _, parts in sorted(found.items())],
                    className="prototypes")


def _cluster(parts: list[dict], kind: str, facts: Facts, chosen: bool):
    one = parts[0]
    greyed = " greyed" if chosen and not any(p["chosen"] for p in parts) else ""
    agreement = "" if one["agreement"] is None else f"agreement {one['agreement']:.2f}"
    counts = [html.Span([html.Span(theme.glyph(facts.model(p["model"]).index), className="glyph",
                                   style={"color": theme.model_colour(
                                       facts.model(p["model"]).index)}), f" {p['heads']}"],
                        title=f"{p['heads']} heads of {p['model']}") for p in parts]
    tip = (f"cluster {one['cluster']}: {one['name']}, {sum(p['heads'] for p in parts)} heads of "
           "the models on show; agreement: mean share of seeds in which two of its heads are "
           "together")
    return button([
        picture(f"pictures/prototypes.png?kind={kind}", (0, one["cluster"]), 1, kind, 6),
        html.Span([html.B(one["name"]), html.Span(counts, className="counts"),
                   html.Span(agreement, className="hint")], className="tile-facts")],
        look="tile" + greyed, tip=tip,
        keys=json.dumps([f"{p['keys']}@{p['model']}" for p in parts]))


def alike(rows: list[dict], facts: Facts, kind: str) -> html.Element:
    """A tile per head of `pattern_queries.alike`, model by model."""
    by_model: dict[str, list[dict]] = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(row)
    return html.Div([html.Div([_model_name(name, facts), html.Div(
        [_alike(row, facts, kind) for row in own], className="row-of-tiles")], className="alike")
        for name, own in by_model.items()], className="alikes")


def _model_name(name: str, facts: Facts):
    index = facts.model(name).index
    return html.Div([html.Span(theme.glyph(index), className="glyph",
                               style={"color": theme.model_colour(index)}),
                     html.Span(short_name(name, 26), title=name)], className="top5-model")


def _alike(row: dict, facts: Facts, kind: str):
    key = (row["model"], row["layer"], row["head"])
    name = f"{row['layer']}.{row['head']}"
    kinds = facts.model(row["model"]).kinds
    sure = "" if row["p_value"] is None else f", p = {row['p_value']:.2g}"
    mark = {True: "matched", False: "no match"}.get(row["matched"], "")
    return button([
        head_picture(facts, key, kind if kind in kinds else "patch", 4),
        html.Span([html.B(name), html.Span(f"{row['similarity']:.2f}"),
                   html.Span(row["pattern"] or "", className="hint"),
                   html.Span(mark, className=f"verdict {mark}")], className="tile-facts")],
        look="tile", op="toggle", keys=json.dumps([f"{name}@{row['model']}"]),
        tip=f"{row['model']} {name}: similarity {row['similarity']:.3f}{sure}. Click to choose it "
            "too.")
