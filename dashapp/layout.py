"""The page's skeleton: header, filter bar, one card per view. Figures come later, by callback."""

from __future__ import annotations

from collections.abc import Mapping

import dash_bootstrap_components as dbc
from dash import dcc, html

from dashapp import guide, theme
from dashapp.console import layout as console
from dashapp.facts import Facts
from dashapp.figures.partial import DRAWN
from dashapp.parts import button
from dashapp.state import (
    ALONG,
    AXES,
    BANDS,
    CHOICES,
    CLOUDS,
    COEFFICIENTS,
    COLOURS,
    HOPS,
    JUDGED,
    LINKS,
    LOOKS,
    MARKS,
    OVER,
    PAINTS,
    SHADES,
    TABS,
)
from dashapp.views import VIEWS, View
from store.partial_queries import QUANTITIES, TABLE
from store.pattern_tables import KINDS
from store.schema import (
    IMPORTANCE,
    MODES,
    RANKED,
    STRENGTH,
    SUMMARISED,
    TABLES,
    Column,
    measure,
)
from store.selection import OUTCOMES

NAME = "Head Atlas"


def page(facts: Facts, path: str) -> html.Div:
    """The whole page for a store that holds these facts."""
    if not facts.models:
        return _bare_page(_nothing_yet(facts, path))
    return html.Div([
        dcc.Location(id="url", refresh="callback-nav"), dcc.Store(id="state"),
        dcc.Store(id="key-models"), dcc.Store(id="gesture"), dcc.Store(id="answered"),
        guide.skip_link(), _header(facts),
        dbc.Alert(id="message", is_open=False, dismissable=True, color="warning"),
        _bar(), _grid(), _footer(), _modal(), guide.keys()], id="page", className="on-heads")


def refusal(reason: str) -> html.Div:
    """In place of the page, when the store cannot be read."""
    return _bare_page([html.H2("This store cannot be shown"), html.P(reason)])


def _bare_page(content: list) -> html.Div:
    """A page of words, with none of the components that callbacks listen to."""
    return html.Div([html.Header([html.H1(NAME)], className="top"),
                     html.Main(content, className="nothing"), _footer()], id="page")


def _header(facts: Facts) -> html.Header:
    return html.Header([
        html.H1(NAME), html.Nav(_toggle("tab", TABS)),
        _labelled("Models", dcc.Dropdown(
            id="models", options=[{"label": n, "value": n} for n in facts.names], multi=True,
            placeholder="choose models", clearable=False), "wide"),
        _labelled("Labels", dcc.Dropdown(
            id="labels", multi=True, disabled=not facts.labels,
            placeholder="all labels" if facts.labels else "no labels in this store",
            options=[{"label": f"{name} ({count})", "value": name, "search": name}
                     for name, count in facts.labels]), "wide"),
        _labelled("Predictions", dbc.Select(
            id="outcome", size="sm", options=_options({"all": "all", **OUTCOMES}))),
        button("Copy link", tip="copy a link that restores this view", copy="1"),
        *guide.buttons(), guide.jumps()], className="top")


def _labelled(text: str, control, more: str = "") -> html.Label:
    return html.Label([html.Span(text), control], className=f"labelled {more}")


def _bar() -> html.Div:
    return html.Div([
        html.Div(id="model-key"),
        html.Div([html.Div(id="chips"), html.Div(id="counts", role="status")], id="filters")],
        id="bar")


def _grid() -> html.Main:
    return html.Main([_tab(name) for name in TABS], id="charts", tabIndex=-1)


def _tab(name: str) -> html.Div:
    cards = console.page() if name == "sql" else [_card(v) for v in VIEWS if v.tab == name]
    return html.Div(cards, id=f"tab-{name}", className="tab grid")


def _card(view: View) -> html.Section:
    body = [_BODIES[view.form](view), *([_focus_panel()] if view.id == "overview" else [])]
    return html.Section([
        html.Div([
            html.H2(view.title, title=view.help, id=f"title-{view.id}"),
            *[c for name in view.controls for c in CONTROLS[name]()],
            html.Div([
                html.Button("SQL", id={"type": "sql", "view": view.id}, className="small-button",
                            title="the SQL behind this chart",
                            **{"aria-label": f"SQL behind {view.title}"}),  # type: ignore[arg-type]
                button("CSV", tip=f"CSV: the rows of {view.title}", csv=f"rows/{view.id}.csv")],
                className="tools")], className="pane-head"),
        html.Div(body, className="pane-body"),
        html.P(id=f"caption-{view.id}", className="caption"),
        dcc.Store(id=f"key-{view.id}"), dcc.Store(id=f"held-{view.id}"),
        dcc.Store(id=f"brush-{view.id}", data=view.brush)],
        className=f"pane view-{view.id}", id=f"view-{view.id}", tabIndex=-1)


def _plot(view: View) -> html.Div:
    graph = dcc.Graph(id=f"plot-{view.id}", config=theme.CONFIG, figure=theme.empty(260, ""))
    named: dict = {"role": "figure", "aria-labelledby": f"title-{view.id} caption-{view.id}"}
    return html.Div([graph, dcc.Store(id=f"plot-data-{view.id}")], className="plot", **named)


def _panel(view: View) -> html.Div:
    return html.Div(id=f"panel-data-{view.id}", className="panel")


_BODIES = {"plot": _plot, "panel": _panel}


def _focus_panel() -> html.Aside:
    return html.Aside([
        dbc.Input(id="find", type="text", size="sm", debounce=True, placeholder="image no. or path",
                  value="", html_size=10),
        html.Div(id="focus")], id="focus-panel")


def _measure_control(name: str, measures: tuple[Column, ...]) -> list:
    select = dbc.Select(id=name, size="sm", className="measure", options=[
        {"label": c.title, "value": c.name, "title": c.text} for c in measures])
    return [
        html.Label([html.Span("measure", className="visually-hidden"), select]),
        guide.explain(name)]


def _measures(name: str, text: str, measures: tuple[Column, ...], *first: str) -> list:
    """A choice of measures, each with its definition; `first` come before them."""
    options = [*({"label": SHADES[one], "value": one} for one in first), *(
        {"label": c.title, "value": c.name, "title": c.text} for c in measures)]
    return [_labelled(text, dbc.Select(id=name, size="sm", options=options)), guide.explain(name)]


def _toggle(name: str, options: Mapping[str, str]) -> list:
    return [dbc.RadioItems(id=name, options=_options(options), className="toggle",
                           inputClassName="btn-check", labelClassName="btn btn-sm",
                           labelCheckedClassName="active", inline=True)]


def _options(choices: Mapping[str, str]) -> list[dict]:
    return [{"label": text, "value": value} for value, text in choices.items()]


CONTROLS = {
    "choose": guide.choose_head,
    "importance": lambda: _measure_control("importance", IMPORTANCE),
    "strength": lambda: _measure_control("strength", STRENGTH),
    "colour": lambda: [_labelled("colour", dbc.Select(id="colour", size="sm",
                                                      options=_options(COLOURS)))],
    "marks": lambda: _toggle("marks", MARKS),
    "axis": lambda: _toggle("axis", AXES),
    "hops": lambda: _toggle("hops", HOPS),
    "kind": lambda: _toggle("kind", {kind: kind for kind in KINDS}),
    "space": lambda: _toggle("space", {"autoencoder": "autoencoder", "pca": "PCA"}),
    "cloud": lambda: _toggle("cloud", CLOUDS),
    "paint": lambda: [_labelled("colour", dbc.Select(id="paint", size="sm",
                                                     options=_options(PAINTS)))],
    "looks": lambda: _toggle("looks", LOOKS),
    "links": lambda: [_labelled("largest", dbc.Select(id="links", size="sm",
                                                      options=_options(LINKS)))],
    "left": lambda: [*_toggle("left", {name: TABLE.column(name).label for name in QUANTITIES}),
                     guide.explain("left")],
    "mode": lambda: [_labelled("set to 0", dbc.Select(id="mode", size="sm", options=[
        {"label": DRAWN[mode].name, "value": mode, "title": text}
        for mode, text in MODES.items()]))],
    "compared": lambda: _measures("compared", "measure", SUMMARISED),
    "along": lambda: _toggle("along", ALONG),
    "band": lambda: _toggle("band", BANDS),
    "across": lambda: _measures("across", "x", SUMMARISED),
    "up": lambda: _measures("up", "y", SUMMARISED),
    "shade": lambda: _measures("shade", "colour", SUMMARISED, "model", "layer", "pattern"),
    "coefficient": lambda: _toggle("coefficient", COEFFICIENTS),
    "over": lambda: _toggle("over", OVER),
    "ranked": lambda: _measures("ranked", "by", tuple(map(measure, CHOICES["ranked"]))),
    "pruned": lambda: _measures("pruned", "in the order of", RANKED),
    "judged": lambda: [*_toggle("judged", {
        name: TABLES["pruning_curves"].column(name).label for name in JUDGED}),
        guide.explain("judged")],
}


def _footer() -> html.Footer:
    return html.Footer([
        html.Span("Attention shows where a head reads, not by itself why the model decides; the "
                  "importance views intervene instead."),
        html.Span("After Li et al., IEEE TVCG 2023.")])


def _modal() -> dbc.Modal:
    header = dbc.ModalHeader(dbc.ModalTitle(id="sql-title"))
    return dbc.Modal([header, dbc.ModalBody(id="sql-body")], id="sql", size="lg",
                     scrollable=True, is_open=False)


def _nothing_yet(facts: Facts, path: str) -> list:
    unfinished = [html.P(["Still being computed: ", html.B(", ".join(facts.unfinished)), ". "
                          "Reload this page when it is done."])] if facts.unfinished else []
    command = f"headatlas precompute --model deit_small_patch16_224 --images FOLDER --store {path}"
    return [html.H2("This store holds no finished model yet"), *unfinished,
            html.P("Analyse a model over a folder of images, then reload this page:"),
            html.Pre(command)]
