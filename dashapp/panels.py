"""The small parts of the page that follow the state: chips, counts, model key, focused image."""

from __future__ import annotations

import json

from dashapp import gallery, html, theme
from dashapp.facts import Facts, Model
from dashapp.figures.panes import short_name
from dashapp.parts import button
from dashapp.pictures import head_picture
from dashapp.pinned import pin_button
from dashapp.state import LONGEST_SQL, State
from store import queries
from store.card_queries import image_card
from store.literals import written_in
from store.pattern_tables import KINDS
from store.queries import Ask, Query
from store.reader import Store
from store.schema import Column
from store.selection import OUTCOMES, Clause, HeadKey, Heads, Labels, Outcome, Region


def problems(found: list[str]) -> list:
    """What a link asked for and this store cannot show."""
    return [html.Strong("Left out: "), "; ".join(found[:5]), "; …" if len(found) > 5 else ""]


def chips(ask: Ask) -> list:
    """A chip per active clause, each with a cross, and one to clear all."""
    made = [_chip(sentence(c, ask), c.source) for c in ask.selection.clauses]
    if len(made) > 1:
        made.append(button("Clear all", look="chip chip-all", tip="remove every filter", drop="*"))
    return made or [html.Span("No filter: lasso images, choose heads, or pick a label.",
                              className="hint")]


def _chip(text: str, source: str):
    cross = button("×", look="cross", tip=f"remove filter: {text}", drop=source)
    return html.Span([html.Span(text, className="chip-text", title=text), cross], className="chip")


def sentence(clause: Clause, ask: Ask) -> str:
    """A clause in words."""
    if isinstance(clause, Region):
        count = len(queries.inside(ask.store, clause))
        return f"{count:,} image{'s' * (count != 1)} lassoed in {clause.model}"
    if isinstance(clause, Labels):
        return "label: " + listed(clause.labels)
    if isinstance(clause, Outcome):
        return OUTCOMES[clause.outcome]
    if isinstance(clause, Heads):
        names = [f"{model} {layer}.{head}" for model, layer, head in clause.heads]
        return ("head " if len(names) == 1 else f"{len(names)} heads: ") + listed(tuple(names))
    raise TypeError(clause)


def listed(names: tuple[str, ...], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counts(ask: Ask, state: State, facts: Facts) -> list:
    (row,) = queries.image_counts(ask).rows(ask.store).to_pylist()
    heads = sum(m.layers * m.heads for m in facts.models if m.name in state.models)
    chosen = sum(h[0] in state.models for h in state.selection.heads)
    return [html.B(f"{row['kept']:,}", id="count-images"), f" of {row['images']:,} images",
            html.Span("·", className="dot"),
            html.B(f"{chosen or heads:,}", id="count-heads"), f" of {heads:,} heads"]


def model_key(state: State, facts: Facts) -> list:
    """A chip per model on show: its colour and symbol; opened, where it comes from."""
    return [_model(facts.model(name)) for name in state.models]


def _model(model: Model):
    row = model.row
    accuracy = "" if row["accuracy"] is None else f" · {row['accuracy']:.0%} correct"
    return html.Details([
        html.Summary([
            html.Span(theme.glyph(model.index), style={"color": theme.model_colour(model.index)},
                      className="glyph"),
            html.Span(short_name(model.name, 26), className="model-name"),
            html.Span(f"{model.layers} × {model.heads} heads{accuracy}", className="model-facts")],
            title=model.name),
        html.Div(_provenance(model), className="provenance")], className="model")


def _provenance(model: Model) -> list:
    row = model.row
    accuracy = "not known" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
    registers = f", {row['registers']} registers" if row["registers"] else ""
    facts = {
        "spec": row["spec"], "family": row["family"],
        "heads": f"{model.layers} layers × {model.heads} heads",
        "input": f"{row['image_h']} × {row['image_w']} pixels, patches of {row['patch']}",
        "grid": f"{model.grid_h} × {model.grid_w} patches",
        "class token": ("yes" if row["class_token"] else "no") + registers,
        "classifier": model.classifier, "accuracy": accuracy,
        "parameters": f"{row['parameters'] or 0:,}",
        "weights sha256": (row["weights_sha256"] or "")[:12],
        "preprocessing": _compact(row["preprocessing"]), "made with": _compact(row["versions"]),
    }
    return [html.B(model.name), html.Table(html.Tbody(
        [html.Tr([html.Th(k), html.Td(str(v))]) for k, v in facts.items()]))]


def _compact(text: str | None) -> str:
    try:
        return ", ".join(f"{k} {v}" for k, v in json.loads(text or "{}").items()) or "not recorded"
    except (ValueError, AttributeError):
        return str(text)


def focus(ask: Ask, state: State, facts: Facts) -> list:
    """The focused image: thumbnail, label and each model's five most probable classes."""
    if state.focus is None:
        return gallery.hardest(ask, state)
    rows = image_card(ask, state.focus).rows(ask.store).to_pylist()
    if not rows:
        return [html.P(f"There is no image {state.focus}.", className="hint")]
    image = rows[0]
    return [
        html.Div([html.Img(src=f"thumbnail/{state.focus}", alt=image["path"]),
                  html.Div([html.B(f"image {state.focus}"),
                            html.Span(image["path"], title=image["path"], className="path"),
                            html.Div(f"label: {image['label']}" if image["label"] is not None
                                     else "no label")], className="thumb-facts"),
                  button("×", look="cross", tip="release this image", drop="focus")],
                 className="thumb"),
        *[_top5(facts.model(r["model"]), r) for r in rows if r["model"] is not None]]


def _top5(model: Model, row: dict):
    head = html.Div([html.Span(theme.glyph(model.index), className="glyph",
                               style={"color": theme.model_colour(model.index)}),
                     html.Span(short_name(model.name, 22), title=model.name)],
                    className="top5-model")
    if row["top5"] is None:
        return html.Div([head, html.Div("no classifier", className="hint")], className="top5")
    return html.Div([head, *[_bar(one, model, row["label"]) for one in row["top5"]]],
                    className="top5")


def _bar(one: dict, model: Model, label: str | None):
    right = " right" if one["name"] == label else ""
    return html.Div([
        html.Div(className="bar", style={
            "width": f"{100 * one['probability']:.1f}%",
            "background": theme.tint(theme.model_colour(model.index), 0.22)}),
        html.Span(one["name"], className="bar-name" + right, title=one["name"]),
        html.Span(f"{one['probability']:.3f}", className="bar-value")], className="bar-row")


def head_card(rows: list[dict], state: State, facts: Facts, image: int | None) -> list:
    """The head of the head page, the others that are chosen, and the images that are kept."""
    if state.opened is None or not rows:
        return [html.P("Choose a model above.", className="hint")]
    model = facts.model(state.opened[0])
    row = rows[0]
    pictures = [html.Figure([head_picture(facts, state.opened, kind, 6), html.Figcaption(kind)])
                for kind in KINDS if row[kind]]
    others = [h for h in state.selection.heads if h[0] in state.models][-MOST_HEADS:]
    return [html.Div([
        html.Div(pictures, className="head-pictures"),
        html.Div([html.Div([_turn(h, facts, h == state.opened)
                            for h in dict.fromkeys([*others, state.opened])]
                           + [pin_button(state.opened, "Pin")], className="turns"),
                  html.Div(_pattern_facts(row), className="hint")]),
        html.Div([html.Div(_kept_words(model, image), className="hint"),
                  gallery.kept(model.kept, image)], className="kept")], className="head-card")]


def _turn(key: HeadKey, facts: Facts, now: bool):
    model, layer, head = key
    index = facts.model(model).index
    mark = html.Span(theme.glyph(index), className="glyph",
                     style={"color": theme.model_colour(index)})
    return button([mark, f" {short_name(model, 22)} {layer}.{head}"], look="turn" + " now" * now,
                  tip=f"{model}, layer {layer}, head {head}", open=f"{layer}.{head}@{model}")


def _pattern_facts(row: dict) -> list:
    """The head's pattern in words; what is not known is left out."""
    said = []
    if row["pattern"] is not None:
        score = "" if row["pattern_score"] is None else f" (score {row['pattern_score']:.2f})"
        said.append(html.Span(["pattern: ", html.B(row["pattern"]), score]))
    if row["content_dependence"] is not None:
        said.append(html.Span(
            f"content dependence {row['content_dependence']:.2f} nats of at most 0.69, over "
            f"{row['content_images']} images", title="0: it looks the same way in every image"))
    return [html.Div(one) for one in said]


def _kept_words(model: Model, image: int | None) -> str:
    if not model.kept:
        return ""
    shown = "" if image is None else f"image {image} is shown; "
    return f"Attention is kept of {len(model.kept):,} images; {shown}click another:"


def about(column: Column | None) -> list:
    """The one definition of a measure, as the schema has it."""
    if column is None:
        return [html.P("No measure is chosen here.")]
    direction = {1: "higher = the head matters more", -1: "lower = the head matters more"}
    facts = [("unit", column.unit or "none"), ("range", column.range), ("source", column.source),
             ("reading", direction.get(column.important, ""))]
    return [html.B(column.title), html.P(column.text), html.Div(
        [html.Div(f"{k}: {v}") for k, v in facts if v], className="about-facts"),
        html.Code(column.name)]


def query_block(view: str, store: Store, name: str, query: Query):
    """One query of a view: what it is, its SQL, its parameters and how many rows it gave."""
    rows = query.rows(store)
    params = [f"${k} = {_value(v)}" for k, v in query.params.items()]
    return html.Div([
        html.Div([html.B(name), html.Span(f"{rows.num_rows:,} rows", className="hint"),
                  button("CSV", csv=f"rows/{view}/{name}.csv"), *_to_console(query)],
                 className="query-head"),
        html.Pre(query.sql), html.Pre("\n".join(params), className="params") if params else None])


def _to_console(query: Query) -> list:
    """A way into the console with the query, its parameters written in, where a link can hold it.
    """
    sql = written_in(query.sql, query.params)
    if len(sql) > LONGEST_SQL:
        return [html.Span(f"longer than the console's {LONGEST_SQL:,} characters with its "
                          "parameters written in", className="hint")]
    more = [] if query.then is None else [html.Span("the chart goes on from its rows",
                                                    className="hint")]
    return [button("Open in the SQL console", look="small-button to-console",
                   gesture=json.dumps({"kind": "sql", "sql": sql, "open": True})), *more]


MOST_HEADS = 12
"""Chosen heads that the head page offers to turn to, the newest ones."""


def _value(value: object, most: int = 160) -> str:
    text = repr(value)
    if len(text) <= most:
        return text
    count = f"  ({len(value)} values)" if isinstance(value, list) else ""
    return text[:most] + " …" + count
