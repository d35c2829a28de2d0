"""What the console looks like: editor and answer, beside them the examples and the schema."""

from __future__ import annotations

from typing import Any

import dash_ag_grid as dag
from dash import dcc, html

from dashapp.console.examples import EXAMPLES
from dashapp.parts import button
from store.answers import FILE_BYTES
from store.reader import type_name
from store.schema import TABLES, Column
from store.table import Table

FORMS = {"csv": "CSV", "parquet": "Parquet"}
"""The files that an answer can be downloaded as."""

_FEW_ROWS = 14
_THEME = ("themeBalham.withParams({fontFamily: 'inherit', fontSize: 12.5, wrapperBorderRadius: 5, "
          "accentColor: 'var(--accent)', headerBackgroundColor: 'var(--soft)', "
          "borderColor: 'var(--line)', backgroundColor: 'var(--paper)', "
          "foregroundColor: 'var(--ink)', headerTextColor: 'var(--ink)', "
          "oddRowBackgroundColor: 'var(--paper)', browserColorScheme: 'inherit'})")
"""The page's own colours, light or dark (assets/theme.css)."""


def page() -> list:
    """The console's part of the page."""
    return [html.Section(_editor() + _answer(), className="pane console-main"),
            html.Aside([_examples(), _schema()], className="pane console-side")]


def _editor() -> list:
    return [
        html.Div([html.H2("SQL"),
                  html.Span("One query over this store, read-only. The filters above do not apply "
                            "here.", className="hint")], className="pane-head"),
        dcc.Textarea(id="console-sql", rows=9, spellCheck=False, className="console-sql",
                     placeholder="SELECT ... FROM heads\n\nWrite a query, or pick an example.",
                     title="The query. Ctrl+Enter runs it; Tab indents; Escape, then Tab leaves."),
        html.Div([
            html.Button("Run", id="console-run", className="console-run", title="Ctrl+Enter"),
            html.Button("Cancel", id="console-cancel", className="small-button", disabled=True),
            html.Span(id="console-status", role="status", className="hint"),
            html.Span("Ctrl+Enter runs · Tab indents, Esc then Tab leaves", className="hint keys"),
            html.Span([button(name, download=form, tip=f"run the query and save its whole answer, "
                              f"up to {FILE_BYTES >> 20} MB, as {name}")
                       for form, name in FORMS.items()], className="tools")],
            className="console-bar"),
        dcc.Store(id="console-asked"),
        html.P(id="console-note", role="status", className="caption")]


def _answer() -> list:
    return [dcc.Loading(html.Div(nothing_yet(), id="console-answer"), type="dot", delay_show=300,
                        color="var(--accent)",
                        overlay_style={"visibility": "visible", "opacity": .45}),
            html.Iframe(name="console-file", hidden=True, title="downloads")]


def nothing_yet() -> html.P:
    return html.P("The rows appear here.", className="hint console-empty")


def _examples() -> html.Details:
    return html.Details(
        [html.Summary("Examples"), *[button(title, look="example", example=sql.strip())
                                     for title, sql in EXAMPLES.items()]],
        open=True, className="stays")


def _schema() -> html.Div:
    return html.Div([html.H3("Tables"), *[
        html.Details([
            html.Summary([html.B(table.name), html.Span(f" {table.text}", className="hint")],
                         id={"type": "schema", "table": table.name}, title=table.text),
            html.Div(id={"type": "columns", "table": table.name})], className="stays")
        for table in TABLES.values()]])


def columns(table: Table) -> list:
    """The columns of a table; a click on a name writes it into the query."""
    return [button(table.name, look="name", insert=table.name, tip=f"write {table.name}"),
            html.Span(f" key: {', '.join(table.keys)}", className="hint"),
            html.Ul([_column(column, table) for column in table.columns])]


def _column(column: Column, table: Table) -> html.Li:
    name = f'"{column.name}"' if column.name in QUOTED else column.name
    unit = f" in {column.unit}" if column.unit else ""
    return html.Li([
        button(column.name, look="name" + " key" * (column.name in table.keys), insert=name),
        html.Span(f" {type_name(column.type).lower()}{unit}", className="kind"),
        html.Div(column.text, className="hint")])


QUOTED = {"order", "class"}
"""Columns that SQL would take for words of its own."""


def rows(found: dict[str, Any], facts: dict[str, Any]) -> list:
    """The answer as a grid; a word where it has no rows."""
    if not found["rows"]:
        names = ", ".join(column["name"] for column in found["columns"])
        return [html.P(f"No row. The columns would be: {names}.", className="hint console-empty")]
    few = len(found["rows"]) <= _FEW_ROWS
    return [dag.AgGrid(
        columnDefs=[_column_def(i, column) for i, column in enumerate(found["columns"])],
        rowData=[{f"c{i}": value for i, value in enumerate(row)} for row in found["rows"]],
        defaultColDef={"sortable": True, "resizable": True, "maxWidth": 460, "minWidth": 60,
                       "cellClassRules": {"null": "params.value == null"},
                       "valueFormatter": {"function": "params.value == null ? 'NULL' : "
                                                      "params.value"},
                       "tooltipValueGetter": {"function": "params.value"}},
        columnSize="autoSize", className="console-grid",
        style={"height": None if few else "460px"},
        dashGridOptions={
            "theme": {"function": _THEME}, "enableCellTextSelection": True,
            "ensureDomOrder": True, "animateRows": False, "tooltipShowDelay": 600,
            "domLayout": "autoHeight" if few else "normal", "rowHeight": 25, "headerHeight": 28})]


def _column_def(number: int, column: dict[str, Any]) -> dict[str, Any]:
    right = {"type": "rightAligned"} if column["number"] else {}
    return {"field": f"c{number}", "headerName": column["name"], "headerTooltip": column["type"],
            **right}


def status(facts: dict[str, Any]) -> str:
    """How many rows there are, how many of them are shown, and how long it took."""
    shown, total = facts["shown"], facts["total"]
    of = f"{total:,} row{'s' * (total != 1)}"
    if shown < total:
        of = f"first {shown:,} of {'' if facts['counted'] else 'more than '}{of}"
    return f"{of} · {facts['seconds']:.2f} s"


def refusal(words: str) -> list:
    return [html.P(words, role="alert", className="console-error")]
