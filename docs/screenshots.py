"""Pictures of the page for the README and the tour, from the store that `make demo` makes.

    python docs/screenshots.py STORE [--out docs/screenshots] [--only NAME ...]

Serves the store on a free port and photographs it in headless Chromium (needs Playwright).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDTH, HEIGHT = 1400, 900
MOST_BYTES = 290_000
DRAWN = """(plots => (plots.length || document.querySelector('#page.on-sql')) && plots.every(plot =>
(((plot.querySelector('.js-plotly-plot') || {}).layout || {}).meta || {}).axes))(
[...document.querySelectorAll('.plot')].filter(plot => plot.offsetParent))"""


@dataclass(frozen=True)
class Picture:
    """The page at ?QUERY: from one view to another, or what a window shows at first."""

    query: str = ""
    views: tuple[str, str] | None = None
    theme: str = "light"
    height: int = HEIGHT


TWO = "model=fashion_cls14&model=fashion_cls7&image=344&heads=0.2%40fashion_cls7"
MODE = TWO + "&mode=cls_patches"
PATCH = TWO + "&query=25"
SQL = ("SELECT pattern, model, count(*) AS heads, round(avg(probability_drop_mean), 4) AS drop\n"
       "FROM heads GROUP BY ALL ORDER BY drop DESC")

PICTURES = {
    "overview": Picture(),
    "filtered": Picture("label=Shirt&label=T-shirt%2Ftop&image=317&heads=0.2%40fashion_cls7"
                        "&heads=0.3%40fashion_cls14&heads=0.1%40fashion_reg7"),
    "patterns": Picture("", ("map", "evidence")),
    "head": Picture(PATCH, ("head", "alike")),
    "tour-image": Picture("model=fashion_cls14&model=fashion_cls7&image=344",
                          ("overview", "matrix")),
    "tour-head": Picture(TWO, ("line", "line")),
    "tour-partial": Picture(MODE, ("partial", "predictions")),
    "tour-strength": Picture(TWO, ("layers", "distribution")),
    "tour-map": Picture(TWO, ("map", "prototypes")),
    "tour-compare": Picture(TWO + "&tab=compare&pin=0.3%40fashion_cls14", ("trends", "pinned")),
    "tour-sql": Picture("tab=sql&sql=" + SQL.replace(" ", "+").replace("\n", "%0A"), height=620),
    "tour-dark": Picture(MODE, theme="dark"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", str(args.store),
         "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        url = next(w for w in words if w.startswith("http://"))
        photograph(url, {name: PICTURES[name] for name in args.only}, args.out)
    finally:
        process.terminate()
        process.wait()


def photograph(url: str, pictures: dict[str, Picture], out: Path) -> None:
    """A PNG for each picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, picture in pictures.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": picture.height},
                                    color_scheme=picture.theme)
            file = out / f"{name}.png"
            save(take(page, f"{url}?{picture.query}", picture), file)
            page.close()
            print(f"{file} {file.stat().st_size / 1000:.0f} kB", flush=True)
        browser.close()


def take(page: Page, url: str, picture: Picture) -> bytes:
    page.goto(url)
    page.wait_for_function(DRAWN, timeout=180_000)
    page.wait_for_load_state("networkidle")
    if "tab=sql" in picture.query:
        page.click("#console-run")
        page.wait_for_selector(".ag-cell", timeout=60_000)
    page.wait_for_timeout(1500)
    if picture.views is None:
        return page.screenshot()
    first, last = (page.locator(f"#view-{view}").bounding_box() for view in picture.views)
    assert first is not None
    assert last is not None
    return page.screenshot(full_page=True, clip={
        "x": 0, "y": first["y"] - 6, "width": WIDTH,
        "height": last["y"] + last["height"] - first["y"] + 12})


def save(content: bytes, file: Path) -> None:
    """As it is; with fewer colours where that takes too many bytes."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.save(file, optimize=True)
    if file.stat().st_size > MOST_BYTES:
        image.quantize(256, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


if __name__ == "__main__":
    main()
