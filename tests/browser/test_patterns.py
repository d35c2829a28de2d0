"""The pattern map and the head page, by hand."""

from __future__ import annotations

from urllib.parse import parse_qs, urlparse

import pytest

pytestmark = pytest.mark.browser

WHERE = "?model=alpha&model=gamma&head=0.1@alpha"


def dot(page, model: str, place: int) -> tuple[float, float]:
    return page.plot("map", f"(t => [t.x[{place}], t.y[{place}]])"
                            f"(gd._fullData.find(t => (t.meta || {{}}).model === '{model}'))")


def query(page) -> dict:
    return parse_qs(urlparse(page.tab.url).query)


def test_a_lasso_on_the_map_chooses_heads_everywhere(page, served):
    page.open(served + WHERE)
    page.lasso("map", [(4, -7), (14, -7), (14, 7), (4, 7)])  # where the heads 0, 4 of a layer lie
    page.wait("layers", "(gd.data[0].selectedpoints || []).length === 6")
    assert page.plot("map", "gd._fullData.find(t => (t.meta || {}).model === 'alpha')"
                            ".selectedpoints.join()") == "0,4,8,12,16,20"
    assert page.tab.inner_text("#count-heads") == "14"
    assert query(page)["heads"][0] == "0.0,1.0,2.0,3.0,4.0,5.0@alpha"
    assert max(map(len, page.updates)) < 20_000


def test_hovering_shows_the_pattern_without_asking_again(page, served):
    page.open(served + "?model=alpha")
    for place in (1, 6):
        page.tab.mouse.move(*page.pixel("map", *dot(page, "alpha", place)))
        page.tab.wait_for_selector("#hover:not([hidden])")
        page.tab.wait_for_function(
            f"document.querySelector('#hover p').textContent.includes('layer {place // 4}, ')")
        page.settle()
    assert "alpha" in page.tab.inner_text("#hover")
    style = page.tab.evaluate("(s => [s.backgroundImage, s.backgroundPosition])"
                              "(document.querySelector('#hover .picture').style)")
    assert "pictures/heads.png?model=alpha" in style[0]
    assert style[1] == "-208px -104px"
    sheets = [u for u in page.requests if "heads.png?model=alpha&kind=patch" in u]
    assert len(sheets) == 1
    page.tab.mouse.move(5, 5)
    page.tab.wait_for_selector("#hover", state="hidden")


def test_a_tile_chooses_its_cluster(page, served):
    page.open(served + WHERE)
    page.tab.click(".view-prototypes .tile >> nth=2")
    page.settle()
    assert "10 heads" in page.tab.inner_text("#chips")
    assert page.tab.locator(".view-prototypes .greyed").count() == 3


def test_a_patch_is_picked_in_the_image_and_in_the_matrix(page, served):
    page.open(served + WHERE)
    page.click("look", 3, 2)
    page.wait("look", "gd.layout.shapes.some(s => s.x0 === 2.5 && s.y0 === 1.5)")
    assert query(page)["query"] == [str(1 + 2 * 7 + 3)]
    page.click("look", 4, 4, axis="2")
    assert query(page)["query"] == [str(1 + 4 * 7 + 4)]
    page.click("look", 0, 0, axis="3")
    assert query(page)["query"] == ["0"]
    middle = page.plot("attention", "(gd._fullData[0].y[20] + gd._fullData[0].y[21]) / 2")
    page.click("attention", 10, middle)
    assert query(page)["query"] == ["20"]
    assert "patch 2, 5" in page.tab.inner_text("#caption-look")


def test_the_matrix_tells_its_weights(page, served):
    page.open(served + WHERE)
    x, y = page.plot("attention", "['x', 'y'].map(a => (e => (e[9] + e[10]) / 2)"
                                  "(gd._fullData[0][a]))")
    page.tab.mouse.move(*page.pixel("attention", x, y))
    page.tab.wait_for_selector("#hover:not([hidden])")
    assert page.tab.inner_text("#hover").startswith("query: patch 1, 1\nkey: patch 1, 1\nweight 0.")


def test_a_brush_of_weights_changes_the_lines(page, served):
    page.open(served + WHERE)
    before = links(page)
    top = page.plot("weights", "gd._fullLayout.xaxis.range[1]")
    start, end = (page.pixel("weights", share * top, 5) for share in (0.3, 0.99))
    page.tab.mouse.move(*start)
    page.tab.mouse.down()
    page.tab.mouse.move(*end, steps=12)
    page.tab.mouse.up()
    page.settle()
    low, high = map(float, query(page)["weights"][0].split(","))
    assert (low, high) == pytest.approx((0.3 * top, 0.99 * top), abs=0.02)
    after = links(page)
    assert after != before
    url = page.tab.url
    page.tab.goto("about:blank")
    page.open(url)
    assert links(page) == after
    page.tab.mouse.dblclick(*page.pixel("weights", 0.5 * top, 5))
    page.settle()
    assert "weights" not in query(page)
    assert links(page) == before


def links(page) -> int:
    return page.plot("lines", "gd.data.reduce((n, t) => n + ((t.meta || {}).links || 0), 0)")


def test_the_url_restores_the_map_and_the_head(page, served):
    page.open(served + "?kind=class&space=pca&paint=layer&cloud=scatter&head=2.1@gamma&query=9"
                       "&looks=from&image=1&weights=0.01,0.5")
    assert page.tab.inner_text(".turn.now").strip().endswith("gamma 2.1")
    assert "patch 0, 4" in page.tab.inner_text("#caption-look")
    assert page.tab.inner_text(".view-map .btn-check:checked + label >> nth=0") == "class"
    assert "beta has no class token" in page.tab.inner_text("#caption-map")
    assert page.plot("map", "gd._fullData[0].type") == "scattergl"
    assert page.tab.locator(".strip .now").get_attribute("data-focus") == "1"
    assert page.complaints == []


def test_heads_and_images_are_turned_to_by_keyboard(page, served):
    page.open(served + "?heads=0.1,3.2@alpha")
    assert page.tab.inner_text(".turn.now").strip().endswith("3.2")
    page.tab.focus(".turn >> nth=0")
    page.tab.keyboard.press("Enter")
    page.settle()
    assert page.tab.inner_text(".turn.now").strip().endswith("0.1")
    page.tab.focus(".view-head .strip button >> nth=2")
    page.tab.keyboard.press("Enter")
    page.settle()
    assert query(page)["image"] == ["2"]
    page.tab.click(".view-alike .tile >> nth=0")
    page.settle()
    assert "3 heads" in page.tab.inner_text("#chips")


def test_an_image_that_is_not_kept_is_said_and_others_are_offered(page, served):
    page.open(served + "?image=30&model=alpha")
    assert "image 30 is not kept" in page.tab.inner_text("#caption-head")
    page.tab.click(".view-head .strip button >> nth=0")
    page.settle()
    assert page.plot("attention", "gd.data[0].type") == "heatmap"


@pytest.mark.parametrize("width", [1440, 1920])
def test_words_stay_inside_their_cards(page, served, width):
    page.tab.set_viewport_size({"width": width, "height": 1000})
    page.open(served + "?heads=0.1,3.2@alpha&paint=cluster")
    spilled = page.tab.evaluate(
        "[...document.querySelectorAll('.pane .tile, .pane .caption, .pane .panel > *')].filter("
        "e => { const [b, p] = [e, e.closest('.pane')].map(x => x.getBoundingClientRect());"
        "const scrolls = e.classList.contains('tile');"
        "return b.left < p.left - 1 || b.right > p.right + 1 ||"
        "(!scrolls && b.bottom > p.bottom + 1); })"
        ".map(e => e.className)")
    assert spilled == []
