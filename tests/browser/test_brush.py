"""A brush in one view changes the others; the URL brings it back; nothing leaves the machine."""

from __future__ import annotations

from urllib.parse import parse_qs, urlparse

import pytest

from store.writer import StoreWriter
from tests.browser.conftest import serving

pytestmark = pytest.mark.browser

AROUND_CATS = [(-5, 5), (5, 5), (5, 15), (-5, 15)]
"""In the synthetic layouts the images labelled "cat" lie around (0, 10)."""

KEPT = "(gd.data[0].selectedpoints || []).length"


def open_two(page, served):
    return page.open(served + "?model=alpha&model=beta")


def test_a_lasso_of_images_changes_the_importance_of_heads(page, served):
    open_two(page, served)
    before = page.matrix_value("alpha", 0, 1)
    assert before < 0.3
    page.lasso("overview", AROUND_CATS)
    page.wait("matrix", "gd._fullData[0].z[0][1] > 0.5")
    assert page.matrix_value("alpha", 0, 1) == pytest.approx(0.6, abs=0.02)
    assert page.plot("overview", KEPT) == page.plot("overview", KEPT.replace("[0]", "[1]")) == 15
    assert "lassoed in alpha" in page.tab.inner_text("#chips")
    assert page.tab.inner_text("#count-images") == "15"


def test_a_cleared_chip_brings_everything_back(page, served):
    open_two(page, served)
    before = page.matrix_value("alpha", 0, 1)
    page.lasso("overview", AROUND_CATS, axis="2")
    assert "lassoed in beta" in page.tab.inner_text("#chips")
    page.tab.click("#chips [data-drop]")
    page.settle()
    assert page.matrix_value("alpha", 0, 1) == pytest.approx(before)
    assert page.tab.inner_text("#count-images") == "60"


def test_a_double_click_clears_the_lasso(page, served):
    open_two(page, served)
    page.lasso("overview", AROUND_CATS)
    assert page.tab.inner_text("#count-images") == "15"
    page.tab.mouse.dblclick(*page.pixel("overview", 0, 0))
    page.settle()
    assert page.tab.inner_text("#count-images") == "60"
    assert page.plot("overview", "gd._fullData[0].selectedpoints === undefined")


def test_a_click_on_a_head_changes_the_strength_views(page, served):
    open_two(page, served)
    page.click("matrix", 1, 0)
    page.wait("hops", "gd.data.some(t => t.name === 'alpha 0.1')")
    page.wait("distribution", "gd.data.length === 1 && gd.data[0].name === 'alpha 0.1'")
    assert "head alpha 0.1" in page.tab.inner_text("#chips")
    assert page.plot("layers", "gd.data[0].selectedpoints.join()") == "1"
    page.click("matrix", 1, 0)
    page.wait("distribution", "gd.data.length === 2")
    assert "head" not in page.tab.inner_text("#chips button, #chips .chip, #chips .hint")[:5]


def test_a_lasso_of_heads_chooses_them_everywhere(page, served):
    open_two(page, served)
    low = page.plot("layers", "gd._fullLayout.yaxis.range[0]") + 0.02
    page.lasso("layers", [(-0.5, low), (0.5, low), (0.5, 1.7), (-0.5, 1.7)])
    page.wait("matrix", "(gd.layout.shapes || []).length === 2")
    assert "heads:" in page.tab.inner_text("#chips")


def test_the_url_restores_the_page(page, served):
    open_two(page, served)
    page.lasso("overview", AROUND_CATS)
    page.click("matrix", 2, 3)
    url, chips = page.tab.url, page.tab.inner_text("#chips")
    value = page.matrix_value("alpha", 0, 1)
    page.tab.goto("about:blank")
    page.open(url)
    assert page.tab.inner_text("#chips") == chips
    assert page.matrix_value("alpha", 0, 1) == pytest.approx(value)
    assert page.plot("overview", KEPT) == 15


def test_back_and_forward(page, served):
    open_two(page, served)
    page.click("matrix", 1, 0)
    page.click("matrix", 2, 0)
    assert "2 heads" in page.tab.inner_text("#chips")
    page.tab.go_back()
    page.settle()
    assert "head alpha 0.1" in page.tab.inner_text("#chips")
    page.tab.go_forward()
    page.settle()
    assert "2 heads" in page.tab.inner_text("#chips")


def test_a_clicked_image_is_focused_and_found_again(page, served):
    open_two(page, served)
    x, y = page.plot("overview", "(f => [f.x[7], f.y[7]])(gd._fullData[0])")
    page.click("overview", x, y)
    focused = page.tab.inner_text("#focus b")
    assert focused.startswith("image ")
    page.tab.fill("#find", "12")
    page.tab.press("#find", "Enter")
    page.tab.wait_for_function("document.querySelector('#focus b').textContent === 'image 12'")
    page.settle()
    assert "image=12" in page.tab.url
    assert page.plot("distribution", "gd.layout.shapes.length") == 2


def test_a_gesture_is_answered_once(page, served):
    open_two(page, served)
    page.updates.clear()
    page.click("matrix", 1, 0)
    page.tab.wait_for_timeout(1500)
    states = [u for u in page.updates if '"output":"..state.data' in u]
    assert len(states) == 1
    assert len(page.updates) <= 20
    assert max(map(len, page.updates)) < 10_000


def test_nothing_of_what_is_done_at_once_is_lost(page, served):
    """Also where each answer takes its time: the next act does not wait for it."""
    open_two(page, served)
    page.tab.evaluate("""() => {
      const fetched = window.fetch;
      window.fetch = async (...asked) => {
        await new Promise(done => setTimeout(done, 250));
        return fetched(...asked); };
      const toggle = head => window.headatlasSend({kind: 'heads', op: 'toggle',
                                                   heads: [['alpha', 0, head]]});
      toggle(0); toggle(1);
      setTimeout(() => toggle(2), 100);
      setTimeout(() => {
        const outcome = document.getElementById('outcome');
        outcome.value = 'any_wrong';
        outcome.dispatchEvent(new Event('change', {bubbles: true})); }, 200);
      setTimeout(() => window.headatlasSend({kind: 'focus', image: 5}), 320);
      setTimeout(() => toggle(1), 400); }""")
    page.settle()
    asked = parse_qs(urlparse(page.tab.url).query)
    assert {name: asked.get(name) for name in ("heads", "image", "outcome")} == {
        "heads": ["0.0,0.2@alpha"], "image": ["5"], "outcome": ["any_wrong"]}
    assert page.tab.input_value("#outcome") == "any_wrong"


def test_zoom_survives_a_brush_elsewhere(page, served):
    open_two(page, served)
    page.tab.evaluate("""() => {
      const gd = document.querySelector('#plot-layers .js-plotly-plot');
      return window.Plotly.relayout(gd, {'yaxis.range[0]': 1, 'yaxis.range[1]': 2}); }""")
    page.click("matrix", 1, 0)
    page.wait("layers", "(gd.data[0].selectedpoints || []).length === 1")
    assert page.plot("layers", "gd._fullLayout.yaxis.range.map(v => Math.round(v)).join()") == "1,2"


def test_an_empty_store_gives_a_calm_page(page, tmp_path):
    StoreWriter(tmp_path / "empty")
    with serving(tmp_path / "empty") as url:
        page.tab.goto(url)
        page.tab.wait_for_selector("main.nothing")
        page.settle()
    assert "headatlas precompute" in page.tab.inner_text("main")
    assert page.complaints == []


@pytest.mark.parametrize("width", [1440, 1024])
def test_nothing_overlaps_or_sticks_out(page, served, width):
    page.tab.set_viewport_size({"width": width, "height": 900})
    page.open(served)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.tab.evaluate("[...document.querySelectorAll('.pane')].map(c => {"
                              "const b = c.getBoundingClientRect();"
                              "return [b.left, b.top, b.right, b.bottom]; })")
    for i, a in enumerate(boxes):
        for b in boxes[i + 1:]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_sql_is_shown(page, served):
    open_two(page, served)
    page.tab.click(".view-layers .tools button >> nth=0")
    page.tab.wait_for_selector("#sql-body pre")
    assert "SELECT" in page.tab.inner_text("#sql-body")
    assert "48 rows" in page.tab.inner_text("#sql-body")


def test_nothing_leaves_the_machine_and_nothing_complains(page, served):
    open_two(page, served)
    page.lasso("overview", AROUND_CATS)
    page.tab.click("label[for*='thumbnails'], .view-overview .toggle label >> nth=1")
    page.settle()
    hosts = {urlparse(u).hostname for u in page.requests if u.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}
    assert page.complaints == []


def test_the_images_that_heads_matter_most_for_can_be_clicked(page, served):
    page.open(served + "?model=alpha&heads=0.1@alpha&importance=probability_drop")
    tiles = page.tab.query_selector_all("#focus .tiles button")
    assert len(tiles) == 9
    assert all("cat" in tile.get_attribute("title") for tile in tiles)
    image = tiles[0].get_attribute("data-focus")
    tiles[0].click()
    page.tab.wait_for_function(
        f"(document.querySelector('#focus b') || {{}}).textContent === 'image {image}'")
    page.settle()
    assert f"image={image}" in page.tab.url
