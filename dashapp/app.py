"""`create_app(store)`: the Dash application over one store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.csv
from dash import Dash, html, set_props
from flask import Flask, Response, abort, request

from dashapp import callbacks, layout, pictures, shell, state
from dashapp.console.routes import routes as console_routes
from dashapp.facts import Live
from dashapp.views import VIEWS
from store import places, queries
from store.doors import Doors
from store.errors import AtlasError
from store.pattern_tables import KINDS
from store.queries import Ask
from store.remote import Place

HERE = Path(__file__).parent


def create_app(store_path: str | Place, base: str = "/") -> Dash:
    """The page over the store at `store_path`, a folder or a URL, which is opened at the first
    request. All of it lies under `base`, a path with a slash at both ends."""
    live = Live(places.at(store_path))
    server: Any = Flask(__name__, root_path=str(HERE))
    app = Dash(__name__, server=server, title=layout.NAME, update_title="", compress=True,
               routes_pathname_prefix=base, requests_pathname_prefix=base,
               enable_mcp=False,  # also where the environment says otherwise (docs/serving.md)
               assets_folder=str(HERE / "assets"), on_error=show_error,
               index_string=shell.INDEX,
               health_endpoint="healthz", suppress_callback_exceptions=True,
               meta_tags=[{"name": "viewport", "content": "width=device-width"}])
    for level in ("COMPRESS_ZSTD_LEVEL", "COMPRESS_BR_LEVEL", "COMPRESS_LEVEL"):
        server.config[level] = 1  # higher ones take longer than they save in transit
    app.layout = lambda: _page(live)
    doors = Doors(live.path)
    callbacks.wire(app, live, doors)
    _routes(app, live)
    console_routes(app, doors)
    server.after_request(_origin_only)
    if base != "/":
        server.add_url_rule("/healthz", "healthz", app.serve_health)
    return app


def _origin_only(answer: Response) -> Response:
    """The page's address holds what is looked at, and can be longer than a header may be: requests
    are not to name it."""
    answer.headers["Referrer-Policy"] = "strict-origin"
    return answer


def _page(live: Live) -> html.Div:
    try:
        _, facts = live.now()
    except AtlasError as error:
        return layout.refusal(str(error))
    return layout.page(facts, str(live.path))


def show_error(error: Exception) -> None:
    """Anything that goes wrong in a callback, in the page's one place for it."""
    set_props("message", {"children": callbacks.said(error), "is_open": True})


def _routes(app: Dash, live: Live) -> None:
    prefix = app.config.routes_pathname_prefix.rstrip("/")

    @app.server.get(f"{prefix}/thumbnail/<int:image>")
    def thumbnail(image: int) -> Response:
        store, facts = live.now()
        if image >= facts.images:
            abort(404)
        (row,) = queries.thumbnail(image).rows(store).to_pylist() or [{"thumbnail": None}]
        return _kept_by_the_browser(row["thumbnail"], "image/webp")

    @app.server.get(f"{prefix}/pictures/heads.png")
    def head_pictures() -> Response:
        store, facts = live.now()
        name, kind = request.args.get("model"), request.args.get("kind")
        image = request.args.get("image", type=int)
        if name not in facts.names or kind not in KINDS:
            abort(404)
        return _kept_by_the_browser(
            pictures.head_sheet(store, facts.model(name), kind, image), "image/png")

    @app.server.get(f"{prefix}/pictures/prototypes.png")
    def prototype_pictures() -> Response:
        kind = request.args.get("kind")
        return _kept_by_the_browser(pictures.prototype_sheet(live.now()[0], kind)
                                    if kind in KINDS else None, "image/png")

    @app.server.get(f"{prefix}/rows/<view_id>.csv")
    @app.server.get(f"{prefix}/rows/<view_id>/<part>.csv")
    def rows(view_id: str, part: str | None = None) -> Response:
        return _csv(live, view_id, part)


def _kept_by_the_browser(content: bytes | None, mimetype: str) -> Response:
    """The content, asked about again at each page: another store has another image 3. 404 if there
    is none."""
    if content is None:
        abort(404)
    answer = Response(content, mimetype=mimetype, headers={"Cache-Control": "no-cache"})
    answer.add_etag()
    answer.make_conditional(request)
    return answer


def _csv(live: Live, view_id: str, part: str | None) -> Response:
    """The rows of one of a view's queries (of the first, without `part`), for the state in the
    request's query string; none where the view has nothing to ask in that state."""
    view = next((v for v in VIEWS if v.id == view_id), None)
    if view is None:
        abort(404)
    store, facts = live.now()
    now, _ = state.from_url(request.query_string.decode("utf-8", "replace"), facts)
    asked = view.ask(Ask(store, now.models, now.selection), now, facts)
    query = asked.get(part) if part else next(iter(asked.values()), None)
    if query is None and part is not None:
        abort(404)
    buffer = io.BytesIO()
    if query is not None:
        pyarrow.csv.write_csv(query.rows(store), buffer)
    name = f"headatlas-{view_id}{'-' + part if part else ''}.csv".replace(" ", "-")
    return Response(buffer.getvalue(), mimetype="text/csv", headers={
        "Content-Disposition": f'attachment; filename="{name}"'})
