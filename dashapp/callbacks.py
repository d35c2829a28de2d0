"""The only wiring. Views listen to the state alone; one callback makes the state.

    URL, controls, gestures --> state --> every view, the chips, the focused image
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import partial

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dashapp import gestures, guide, panels, state, theme
from dashapp.console.callbacks import wire as wire_console
from dashapp.facts import Live
from dashapp.held import packed
from dashapp.views import VIEWS, View
from dashapp.views.base import Drawn
from store import queries
from store.doors import Doors
from store.errors import AtlasError
from store.queries import Ask
from store.reader import Store

log = logging.getLogger("headatlas")


def wire(app: Dash, live: Live, doors: Doors) -> None:
    _wire_state(app, live)
    for tab in state.TABS:
        _wire_tab(app, live, tab)
    _wire_panels(app, live)
    _wire_sql(app, live)
    wire_console(app, doors)
    app.clientside_callback(ClientsideFunction("headatlas", "turn"), Output("page", "className"),
                            Input("tab", "value"))


def _wire_state(app: Dash, live: Live) -> None:
    names = gestures.CONTROLS

    @app.callback(
        Output("state", "data"), Output("url", "search"), Output("find", "value"),
        Output("message", "children"), Output("message", "is_open"),
        *(Output(name, "value") for name in names), Output("answered", "data"),
        Input("url", "search"), Input("gesture", "data"), Input("find", "value"),
        *(Input(name, "value") for name in names), State("state", "data"),
        State("answered", "data"))
    def make_state(search, acts, find, *rest):
        *controls, data, told = rest
        if "url.search" in ctx.triggered_prop_ids:
            data = None
        return _make_state(live, search or "", acts or [], find or "",
                           dict(zip(names, controls, strict=True)), data, told or {})

    app.clientside_callback(ClientsideFunction("headatlas", "answered"), Input("answered", "data"))


def _make_state(live: Live, search: str, acts: list[dict], find: str, controls: dict,
                data: str | None, told: dict) -> tuple:
    """The state after what happened, and every output that it changes.

    A page that does much at once hears only the last answer. So it is not what set this off that
    counts, but all that the page has not been told of yet. `data`: its state, or None where its
    link is its state. `told`: the newest of its acts and the values of its controls, as it last
    heard them.
    """
    store, facts = live.now()
    now, problems = state.from_url(search if data is None else data, facts)
    failed = None
    if data is not None:
        now, failed = gestures.catch_up(now, acts, controls, told, facts)
        now, problems = _find(store, now, find) if find else (now, [])
    words = panels.problems(problems) if problems else said(failed) if failed else None
    now = gestures.fitting(now, facts)
    url = now.to_url(facts)
    shown = gestures.values(now)
    same_url = state.from_url(search, facts) == (now, [])
    return (_if_new(url or "?", data), no_update if same_url else url or "?",
            "" if find else no_update, words or no_update,
            True if words else no_update if data is None else False,
            *(_if_new(shown[name], controls[name]) for name in gestures.CONTROLS),
            _if_new(gestures.told(acts, now), told))


def _if_new(value, before):
    return no_update if value == before else value


def _find(store: Store, now: state.State, text: str) -> tuple[state.State, list[str]]:
    found = queries.find_image(text.strip()).rows(store)["image"].to_pylist()
    if not found:
        return now, [f"image {state.short(text)} (no number or path like it)"]
    return replace(now, focus=found[0]), []


def _wire_tab(app: Dash, live: Live, tab: str) -> None:
    """One callback for all views of a tab: what they share is asked and sent once."""
    views = [view for view in VIEWS if view.tab == tab]
    if not views:
        return

    @app.callback(
        output={"content": [Output(f"{v.form}-data-{v.id}", _SHOWS[v.form]) for v in views],
                "captions": [Output(f"caption-{v.id}", "children") for v in views],
                "keys": [Output(f"key-{v.id}", "data") for v in views]},
        inputs={"data": Input("state", "data"),
                "keys": [State(f"key-{v.id}", "data") for v in views],
                "held": [State(f"held-{v.id}", "data") for v in views]},
        prevent_initial_call=True)
    def draw(data, keys, held):
        store, facts = live.now()
        now, _ = state.from_url(data, facts)
        stale = [now.tab == tab and view.key(now) != key
                 for view, key in zip(views, keys, strict=True)]
        if not any(stale):
            raise PreventUpdate
        drawn = [draw_if_it_can(view, store, now, facts, names or ()) if old else _AS_IT_IS
                 for view, old, names in zip(views, stale, held, strict=True)]
        return {"content": [one.content for one in drawn],
                "captions": [one.caption for one in drawn],
                "keys": [view.key(now) if old else no_update
                         for view, old in zip(views, stale, strict=True)]}

    for view in views:
        if view.form == "plot":
            app.clientside_callback(
                ClientsideFunction("headatlas", "draw"), Output(f"plot-{view.id}", "figure"),
                Output(f"held-{view.id}", "data"), Input(f"plot-data-{view.id}", "data"),
                State(f"plot-{view.id}", "id"), State(f"brush-{view.id}", "data"),
                prevent_initial_call=True)


_AS_IT_IS = Drawn(no_update, no_update)  # type: ignore[arg-type]


def draw_if_it_can(view: View, store: Store, now: state.State, facts,
                   held: Collection[str] = ()) -> Drawn:
    """What the view shows, for a page that holds these texts of its figure; where that fails, its
    caption says why, and the others live."""
    try:
        drawn = draw_view(view, store, now, facts)
        return drawn if view.form != "plot" else \
            Drawn(packed(drawn.content, held), drawn.caption)
    except Exception as error:
        return Drawn(no_update, said(error))


_SHOWS = {"plot": "data", "panel": "children"}
"""What a view of each form sets in the element `FORM-data-ID`."""


def draw_view(view: View, store: Store, now: state.State, facts) -> Drawn:
    """What the view shows, and its caption, for a state."""
    plot = view.form == "plot"
    if not now.models:
        words = "Choose a model above."
        return Drawn(theme.empty(260, words) if plot else words, "")
    asked = view.ask(Ask(store, now.models, now.selection), now, facts)
    drawn = view.draw({name: query.rows(store) for name, query in asked.items()}, now, facts)
    if plot:
        axes = repr([getattr(now, name) for name in view.zoom])
        layout = drawn.content["layout"]
        layout["meta"] = {**(layout.get("meta") or {}), "axes": axes}
    return drawn


def said(error: Exception) -> str:
    """An error in words for the page; one that nobody foresaw goes to the log."""
    if isinstance(error, AtlasError):
        return str(error)
    log.error("a callback failed", exc_info=error)
    return (f"Something went wrong here ({type(error).__name__}). "
            "The server's log says more.")


def _wire_panels(app: Dash, live: Live) -> None:
    @app.callback(
        Output("chips", "children"), Output("counts", "children"),
        Output("focus", "children"), Output("model-key", "children"),
        Output("key-models", "data"), Input("state", "data"), State("key-models", "data"),
        prevent_initial_call=True)
    def draw_panels(data, models):
        store, facts = live.now()
        now, _ = state.from_url(data, facts)
        ask = Ask(store, now.models, now.selection)
        shown = list(now.models)
        same = shown == models
        return (panels.chips(ask), panels.counts(ask, now, facts), panels.focus(ask, now, facts),
                no_update if same else panels.model_key(now, facts), no_update if same else shown)

    @app.callback([Output(f"about-{name}", "children") for name in guide.EXPLAINED],
                  [Input(name, "value") for name in guide.EXPLAINED], prevent_initial_call=True)
    def explain(*chosen):
        return [panels.about(guide.column(name, value))
                for name, value in zip(guide.EXPLAINED, chosen, strict=True)]


def _wire_sql(app: Dash, live: Live) -> None:
    @app.callback(
        Output("sql", "is_open"), Output("sql-title", "children"), Output("sql-body", "children"),
        Input({"type": "sql", "view": ALL}, "n_clicks"), State("state", "data"),
        prevent_initial_call=True)
    def show_sql(clicks, data):
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            raise PreventUpdate
        view = next(v for v in VIEWS if v.id == ctx.triggered_id["view"])
        store, facts = live.now()
        now, _ = state.from_url(data, facts)
        asked = view.ask(Ask(store, now.models, now.selection), now, facts)
        run = partial(panels.query_block, view.id, store)
        return True, f"{view.title}: its SQL", [run(name, q) for name, q in asked.items()]
