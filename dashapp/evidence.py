"""How good a pattern space is, as a table: the autoencoder beside PCA, and a sentence a test."""

from __future__ import annotations

from dashapp import html
from store.pattern_tables import VERDICTS

SPACES = {"autoencoder": "autoencoder", "pca": "PCA", "mean": "mean pattern"}


def table(rows: list[dict]) -> list:
    """`rows` as `pattern_queries.evidence` gives them; begins with which space is better."""
    tests: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        tests.setdefault((row["test"], row["detail"] or ""), {})[row["space"]] = row
    used = [name for name in SPACES if any(name in found for found in tests.values())]
    head = html.Tr([html.Th("test"), *[html.Th(SPACES[name]) for name in used], html.Th("chance"),
                    html.Th("meaning")])
    body = [_line(test, detail, found, used) for (test, detail), found in tests.items()]
    return [_verdict(list(tests.values())),
            html.Table([html.Thead(head), html.Tbody(body)], className="evidence")]


def _verdict(tests: list[dict[str, dict]]) -> html.Element:
    """In how many tests which space was better, as their sentences say."""
    texts = [next(iter(found.values()))["text"] or "" for found in tests]
    counts = {verdict: sum(text.rstrip(".").endswith(verdict) for text in texts)
              for verdict in VERDICTS}
    both = sum(counts.values())
    if not both:
        return html.P("No test compares the two spaces.")
    said = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items() if count)
    return html.P([f"Of {both} tests that compare the two spaces, ", html.B(said), "."])


def _line(test: str, detail: str, found: dict[str, dict], used: list[str]) -> html.Element:
    """A test: its numbers, and what they mean."""
    any_row = next(iter(found.values()))
    more = any_row["better"] > 0
    name = html.Td([test, html.Span(f" {detail}", className="hint") if detail else None,
                    html.Span(" ↑" if more else " ↓",
                              title="more is better" if more else "less is better")])
    text = next((row["text"] for row in found.values() if row["text"]), "")
    chance = {**any_row, "value": any_row["chance"], "low": None}
    best = _best(found)
    return html.Tr([name, *[_cell(found.get(space), space == best) for space in used],
                    _cell(chance, False), html.Td(text, className="meaning")])


def _best(found: dict[str, dict]) -> str:
    """The space with the best value; none where there is nothing to compare it with."""
    known = {space: row for space, row in found.items() if row["value"] is not None}
    return max(known, key=lambda s: known[s]["better"] * known[s]["value"]) \
        if len(known) > 1 else ""


def _cell(row: dict | None, best: bool) -> html.Element:
    if row is None or row["value"] is None:
        return html.Td("")
    interval = "" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
    return html.Td(f"{row['value']:.3g}", title=interval, className="best" if best else None)
