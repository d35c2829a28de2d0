"""A served store and a headless Chromium, or a clear reason why there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.synthetic import make_store

ROOT = Path(__file__).parents[2]
PATIENCE = 300
"""Seconds until what has not happened never will: a bound for what hangs, not for slow machines."""
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic"]


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") \
        or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except api.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the synthetic store behind `headatlas serve`."""
    with serving(make_store(tmp_path_factory.mktemp("served") / "atlas")) as url:
        yield url


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """`headatlas serve` on a free port, while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", str(store), "--port", "0"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


class Page:
    """The atlas in a browser tab, in the words of a person who uses it."""

    def __init__(self, tab) -> None:
        self.tab = tab
        tab.set_default_timeout(1000 * PATIENCE)
        tab.set_default_navigation_timeout(1000 * PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.updates: list[str] = []
        self.pending: set = set()
        tab.on("request", self._requested)
        tab.on("requestfinished", self._answered)
        tab.on("requestfailed", self._answered)
        tab.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: self.complaints.append(str(e)))

    def _requested(self, request) -> None:
        self.requests.append(request.url)
        self.pending.add(request)
        if "_dash-update-component" in request.url:
            self.updates.append(request.post_data or "")

    def _answered(self, request) -> None:
        self.pending.discard(request)

    def open(self, url: str) -> Page:
        self.tab.goto(url)
        self.tab.wait_for_function(
            "(plots => plots.length && plots.every(plot => (((plot.querySelector("
            "'.js-plotly-plot') || {}).layout || {}).meta || {}).axes))"
            "([...document.querySelectorAll('.plot')].filter(plot => plot.offsetParent))")
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until nothing has been asked for or drawn for half a second, in which the tab, slow
        as its machine may be, has had nothing left to do five times."""
        quiet, end = 0, time.monotonic() + PATIENCE
        while quiet < 5:
            assert time.monotonic() < end, [request.url for request in self.pending]
            before = len(self.requests)
            self.tab.wait_for_timeout(100)
            self.tab.evaluate("() => new Promise(done => requestIdleCallback(() => done()))")
            quiet = quiet + 1 if not self.pending and len(self.requests) == before else 0

    def plot(self, view: str, script: str):
        """What `script` gives for the plot's element `gd`."""
        return self.tab.evaluate(
            "([id, s]) => { const gd = document.querySelector(`#plot-${id} .js-plotly-plot`);"
            "return new Function('gd', 'return ' + s)(gd); }", [view, script])

    def wait(self, view: str, script: str) -> None:
        self.tab.wait_for_function(
            "([id, s]) => { const gd = document.querySelector(`#plot-${id} .js-plotly-plot`);"
            "return gd && gd._fullLayout && new Function('gd', 'return ' + s)(gd); }",
            arg=[view, script])

    def pixel(self, view: str, x: float, y: float, axis: str = "") -> tuple[float, float]:
        """Where a point of a plot's axes lies on the screen."""
        self.tab.evaluate("id => document.getElementById(`plot-${id}`)"
                          ".scrollIntoView({block: 'center', behavior: 'instant'})", view)
        px, py = self.plot(
            view, f"(() => {{ const b = gd.getBoundingClientRect(), l = gd._fullLayout,"
                  f"x = l.xaxis{axis}, y = l.yaxis{axis};"
                  f"return [b.left + x._offset + x.d2p({x}), b.top + y._offset + y.d2p({y})];"
                  "})()")
        return px, py

    def lasso(self, view: str, corners: list[tuple[float, float]], axis: str = "") -> None:
        points = [self.pixel(view, x, y, axis) for x, y in [*corners, corners[0]]]
        mouse = self.tab.mouse
        mouse.move(*points[0])
        mouse.down()
        for (ax, ay), (bx, by) in pairwise(points):
            for step in range(1, 7):
                mouse.move(ax + (bx - ax) * step / 6, ay + (by - ay) * step / 6)
                self.tab.wait_for_timeout(15)
        mouse.up()
        self.settle()

    def click(self, view: str, x: float, y: float, axis: str = "") -> None:
        px, py = self.pixel(view, x, y, axis)
        self.tab.mouse.click(px, py)
        self.settle()

    def matrix_value(self, model: str, layer: int, head: int) -> float:
        return self.plot("matrix", f"gd._fullData.find(t => (t.meta || {{}}).grid && "
                                   f"t.meta.model === '{model}').z[{layer}][{head}]")


@pytest.fixture
def page(chromium) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    yield Page(context.new_page())
    context.close()
