"""The SQL console in a browser: a link that waits, keys, examples, cancelling, files, charts."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlparse

import pytest

pytestmark = pytest.mark.browser

QUERY = "SELECT model, NULL AS nothing, layers / 3 AS third FROM models ORDER BY model"
ENDLESS = "SELECT count(*) FROM range(100000000000000)"


@pytest.fixture
def console(page, served):
    def opened(search: str = ""):
        page.tab.goto(f"{served}?tab=sql{search}")
        page.tab.wait_for_selector("#console-sql")
        page.settle()
        return page.tab
    return opened


def says(tab, selector: str, start: str) -> None:
    """Wait until the text there, its white space aside, starts so: cells come after their row."""
    tab.wait_for_function(
        "([selector, start]) => ((document.querySelector(selector) || {}).innerText || '')"
        ".trim().split(/\\s+/).join(' ').startsWith(start)", arg=[selector, start])


def test_a_link_is_restored_and_not_run(console, page):
    tab = console("&sql=" + quote(QUERY))
    assert tab.input_value("#console-sql") == QUERY
    assert tab.inner_text("#console-answer") == "The rows appear here."
    tab.focus("#console-sql")
    tab.keyboard.press("Control+Enter")
    says(tab, "#console-status", "3 rows")
    says(tab, ".ag-row[row-index='1']", "beta NULL 2.66667")
    assert tab.inner_text(".ag-row[row-index='1']").split() == ["beta", "NULL", "2.66667"]
    assert page.complaints == []
    assert {urlparse(u).hostname for u in page.requests if u.startswith("http")} == {"127.0.0.1"}


def test_what_is_typed_and_run_is_in_the_link(console, page):
    tab = console()
    tab.fill("#console-sql", "SELECT 1 AS one")
    tab.click("#console-run")
    tab.wait_for_selector(".ag-row")
    page.settle()
    assert parse_qs(urlparse(tab.url).query)["sql"] == ["SELECT 1 AS one"]
    assert tab.input_value("#console-sql") == "SELECT 1 AS one"


def test_tab_indents_and_escape_lets_it_leave(console):
    tab = console()
    tab.focus("#console-sql")
    tab.keyboard.type("SELECT")
    tab.keyboard.press("Tab")
    tab.keyboard.type("1")
    assert tab.input_value("#console-sql") == "SELECT  1"
    tab.keyboard.press("Escape")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "console-run"
    assert tab.input_value("#console-sql") == "SELECT  1"


def test_an_example_and_a_name_are_written_in(console, page):
    tab = console()
    tab.click(".example >> nth=0")
    assert "FROM heads" in tab.input_value("#console-sql")
    tab.fill("#console-sql", "SELECT ")
    tab.click("summary:has-text('pruning_curves')")
    tab.click("[data-insert='\"order\"']")
    assert tab.input_value("#console-sql") == 'SELECT "order"'
    tab.click("#console-sql")
    assert tab.is_visible("[data-insert='fraction']")


def test_a_query_is_cancelled(console):
    tab = console()
    tab.fill("#console-sql", ENDLESS)
    tab.click("#console-run")
    tab.wait_for_selector("#console-cancel:not([disabled])")
    tab.click("#console-cancel")
    tab.wait_for_selector(".console-error")
    says(tab, ".console-error", "cancelled after")
    tab.wait_for_selector("#console-run:enabled")


def test_files_are_saved_and_refusals_are_read(console):
    tab = console("&sql=" + quote(QUERY))
    with tab.expect_download() as saved:
        tab.click("[data-download=csv]")
    assert saved.value.suggested_filename == "headatlas-query.csv"
    tab.fill("#console-sql", "SELEC")
    tab.click("[data-download=parquet]")
    tab.wait_for_function(
        "document.querySelector('#console-note').textContent.includes('line 1, column 1')")


def test_a_chart_opens_in_the_console_with_its_rows(page, served):
    page.open(served + "?model=alpha&model=beta")
    page.tab.click(".view-layers .tools button >> nth=0")
    page.tab.wait_for_selector("#sql-body pre")
    page.tab.click("#sql-body .to-console >> nth=0")
    page.tab.wait_for_function("document.querySelector('#console-sql').value.includes('SELECT')")
    page.settle()
    assert page.tab.is_visible("#tab-sql")
    assert not page.tab.is_visible("#sql-body")
    page.tab.click("#console-run")
    page.tab.wait_for_selector(".ag-row")
    says(page.tab, "#console-status", "48 rows")


@pytest.mark.parametrize("width", [1400, 900, 500])
def test_nothing_sticks_out(console, page, width):
    page.tab.set_viewport_size({"width": width, "height": 900})
    tab = console("&sql=" + quote("SELECT * FROM heads"))
    tab.click("#console-run")
    tab.wait_for_selector(".ag-row")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
