"""The console's files: a form is posted, the whole answer comes back as CSV or Parquet."""

from __future__ import annotations

from dash import Dash
from flask import Response, abort, request, send_file

from dashapp.console.layout import FORMS
from store.doors import BusyError, Doors
from store.errors import AtlasError, QueryError
from store.statements import MOST_CHARACTERS

TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def routes(app: Dash, doors: Doors) -> None:
    prefix = app.config.routes_pathname_prefix.rstrip("/")

    @app.server.post(f"{prefix}/console/answer.<form>")
    def console_answer(form: str) -> Response:
        if form not in FORMS:
            abort(404)
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return _said("this form is not for other sites", 403)
        request.max_content_length = 13 * MOST_CHARACTERS  # a character takes up to 12 bytes
        sql = request.form.get("sql", "")
        if not sql.strip():
            return _said("there is no query: write one, or pick an example", 400)
        try:
            file = doors.ask(sql, form, request.form.get("ticket", "")).file
        except AtlasError as error:
            return _said(str(error), _code(error))
        return send_file(file, mimetype=TYPES[form], as_attachment=True, max_age=0,
                         download_name=f"headatlas-query.{form}")


def _said(words: str, code: int) -> Response:
    return Response(words + "\n", code, mimetype="text/plain")


def _code(error: AtlasError) -> int:
    """503: try again; 400: mend the query; 500: mend the store."""
    return 503 if isinstance(error, BusyError) else 400 if isinstance(error, QueryError) else 500
