"""What happens in the console: a query is run or cancelled, a table shows its columns."""

from __future__ import annotations

import json

from dash import MATCH, ClientsideFunction, Dash, Input, Output, State
from dash.exceptions import PreventUpdate

from dashapp.console import layout
from store.doors import Doors
from store.errors import AtlasError
from store.schema import TABLES


def wire(app: Dash, doors: Doors) -> None:
    @app.callback(
        Output("console-answer", "children"), Output("console-status", "children"),
        Input("console-asked", "data"), prevent_initial_call=True,
        running=[(Output("console-run", "disabled"), True, False),
                 (Output("console-cancel", "disabled"), False, True)])
    def run(asked):
        return answer(doors, asked or {})

    @app.callback(Input("console-cancel", "n_clicks"), State("console-asked", "data"),
                  prevent_initial_call=True)
    def cancel(clicks, asked):
        doors.cancel(str((asked or {}).get("ticket", "")))

    @app.callback(Output({"type": "columns", "table": MATCH}, "children"),
                  Input({"type": "schema", "table": MATCH}, "n_clicks"),
                  State({"type": "schema", "table": MATCH}, "id"), prevent_initial_call=True)
    def open_table(clicks, which):
        if clicks != 1 or which["table"] not in TABLES:
            raise PreventUpdate
        return layout.columns(TABLES[which["table"]])

    app.clientside_callback(ClientsideFunction("console", "show"), Output("console-sql", "value"),
                            Input("state", "data"), prevent_initial_call=True)
    app.clientside_callback(
        ClientsideFunction("console", "ask"), Output("console-asked", "data"),
        Input("console-run", "n_clicks"), State("console-sql", "value"), prevent_initial_call=True)


def answer(doors: Doors, asked: dict) -> tuple[list, str]:
    """What the answer's place shows, and the line about it."""
    sql = str(asked.get("sql") or "")
    if not sql.strip():
        return [layout.nothing_yet()], "There is no query: write one, or pick an example."
    try:
        got = doors.ask(sql, "show", str(asked.get("ticket", "")))
    except AtlasError as error:
        return layout.refusal(str(error)), ""
    with got.file as file:
        found = json.load(file)
    return layout.rows(found, got.facts), layout.status(got.facts)
