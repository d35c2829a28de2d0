"""Pictures of the page for the README, from a store.

    python docs/screenshots.py STORE [--out docs/screenshots] [--state NAME=QUERY ...]

Serves the store on a free port and photographs it in headless Chromium (needs Playwright).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PARTS = {"-patterns": ("map", "evidence"), "-head": ("head", "alike")}
"""Pictures of a part of the page: from one view to another."""

SIZES = {"": (1440, 900), "-narrow": (1024, 900)}
DRAWN = """(plots => plots.length && plots.every(plot =>
(((plot.querySelector('.js-plotly-plot') || {}).layout || {}).meta || {}).axes))(
[...document.querySelectorAll('.plot')].filter(plot => plot.offsetParent))"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    parser.add_argument("--state", action="append", default=[], metavar="NAME=QUERY",
                        help="a picture NAME.png of the page at ?QUERY")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    states = dict(s.split("=", 1) for s in args.state) or {"overview": ""}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", str(args.store),
         "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        photograph(next(w for w in words if w.startswith("http://")), states, args.out)
    finally:
        process.terminate()
        process.wait()


def photograph(url: str, states: dict[str, str], out: Path) -> None:
    """A PNG for each state and size."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, query in states.items():
            for suffix, (width, height) in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                take(page, f"{url}?{query}" if query else url, out / f"{name}{suffix}.png")
                page.close()
        browser.close()


def take(page: Page, url: str, file: Path) -> None:
    page.goto(url)
    page.wait_for_function(DRAWN, timeout=60_000)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)
    page.screenshot(path=file, full_page=True)
    print(file)
    for part, views in PARTS.items():
        first, last = (page.locator(f".view-{view}").bounding_box() for view in views)
        assert first is not None and last is not None
        own = file.with_stem(file.stem + part)
        page.screenshot(path=own, full_page=True, clip={
            "x": 0, "y": first["y"] - 8, "width": page.viewport_size["width"],
            "height": last["y"] + last["height"] - first["y"] + 16})
        print(own)


if __name__ == "__main__":
    main()
