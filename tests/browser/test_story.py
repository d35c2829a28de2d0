"""The story of the paper's figure, from an image to the head of another ViT that does the same.

On the synthetic store always; on a real one where HEADATLAS_REAL_STORE names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlparse

import pytest

from store import open_store
from tests.browser.conftest import serving

pytestmark = pytest.mark.browser

ONE_HEAD = "gd._fullData.filter(t => (t.meta || {}).grid && t.meta.model === MODEL)[0]"


@pytest.fixture(scope="module")
def real_store() -> Iterator[tuple[str, str, str]]:
    """The address of a served real store, its model with partial pruning, and another one."""
    path = os.environ.get("HEADATLAS_REAL_STORE")
    if not path:
        pytest.skip("no real store: set HEADATLAS_REAL_STORE to one of two or more models, with "
                    "partial pruning of one of them")
    with open_store(path) as store:
        measured = store.sql("SELECT model FROM partial_pruning GROUP BY model "
                             "ORDER BY count(*) DESC")["model"].to_pylist()
        other = next(name for name in store.models if name != measured[0])
    with serving(Path(path)) as url:
        yield url, measured[0], other


@pytest.fixture(params=["synthetic", "real"])
def world(request) -> tuple[str, str, str]:
    if request.param == "real":
        return request.getfixturevalue("real_store")
    return request.getfixturevalue("served"), "alpha", "gamma"


def asked(page) -> dict[str, list[str]]:
    return parse_qs(urlparse(page.tab.url).query)


def opened(page) -> str:
    return page.tab.inner_text(".turn.now").split()[-1]


def pick_an_image(page) -> str:
    """One that has partial pruning and kept attention, by typing its number."""
    there = [set(page.tab.eval_on_selector_all(f".view-{view} .strip button",
                                               "all => all.map(b => b.dataset.focus)"))
             for view in ("predictions", "head")]
    image = min(there[0] & there[1], key=int)
    page.tab.fill("#find", image)
    page.tab.press("#find", "Enter")
    page.tab.wait_for_function(f"(document.querySelector('#focus b') || {{}}).textContent === "
                               f"'image {image}'")
    page.settle()
    return image


def find_the_head_that_hurts(page, model: str) -> str:
    """The largest probability drop of the model in B1's matrix, by a click on its cell."""
    trace = ONE_HEAD.replace("MODEL", repr(model))
    layer, head, axis = page.plot(
        "matrix", f"(t => {{ let best = [0, 0, -Infinity]; t.z.forEach((row, l) => row.forEach("
                  "(v, h) => { if (v > best[2]) best = [l, h, v]; }));"
                  f"return [best[0], best[1], t.xaxis.slice(1)]; }})({trace})")
    page.click("matrix", head, layer, axis=axis)
    return f"{layer}.{head}"


def the_part_that_matters(page) -> str:
    """The mode of B2 with the smallest probability, by a click on its little matrix; B3 turns to
    it."""
    place, low, top = page.plot(
        "partial", "(y => { const low = Math.min(...y.slice(2).filter(v => v !== null));"
                   "return [y.indexOf(low, 2), low, y[0]]; })(Array.from(gd.data[0].y))")
    assert low <= top
    mode = page.plot("partial", f"gd.data[0].meta.modes[{place}]")
    page.pixel("partial", place, low)  # scrolls there
    page.tab.mouse.click(*page.plot(
        "partial", "(({ left, top }, { xaxis, yaxis2 }) => [left + xaxis._offset + "
                   f"xaxis.d2p({place}), top + yaxis2._offset + yaxis2.d2p(0)])"
                   "(gd.getBoundingClientRect(), gd._fullLayout)"))
    page.settle()
    assert asked(page)["mode"] == [mode]
    assert page.tab.input_value("#mode") == mode
    lists = page.tab.locator(".view-predictions .lists > .top5")
    assert lists.count() == 2
    assert lists.nth(0).locator(".bar-row").count() == lists.nth(1).locator(".bar-row").count() > 0
    return mode


def links(page) -> int:
    return page.plot("lines", "gd.data.reduce((n, t) => n + ((t.meta || {}).links || 0), 0)")


def look_at_its_pattern(page) -> None:
    """Pick a patch in the image and brush the weights."""
    page.click("look", 2, 1)
    assert int(asked(page)["query"][0]) > 2
    assert "patch 1, 2" in page.tab.inner_text("#caption-look")
    before = links(page)
    reach = page.plot("weights", "gd._fullLayout.xaxis.range")
    share = [reach[0] + part * (reach[1] - reach[0]) for part in (0.25, 0.95)]
    height = page.plot("weights", "gd._fullLayout.yaxis.range.map(v => v).reduce((a, b) => "
                                  "(a + b) / 2)")
    start, end = (page.pixel("weights", x, height) for x in share)
    page.tab.mouse.move(*start)
    page.tab.mouse.down()
    page.tab.mouse.move(*end, steps=12)
    page.tab.mouse.up()
    page.settle()
    assert "weights" in asked(page)
    assert links(page) != before


def its_like_in(page, other: str) -> str:
    """The head of the other model that is most like it, by keyboard; the head page turns to it."""
    group = page.tab.locator(".view-alike .alike").filter(
        has=page.tab.locator(f".top5-model [title='{other}']"))
    tile = group.locator(".tile").first
    name = tile.locator("b").inner_text()
    tile.focus()
    page.tab.keyboard.press("Enter")
    page.settle()
    return name


def told(page) -> dict[str, str]:
    """What the page says: every caption, the chips, the counts and the open head."""
    captions = page.tab.eval_on_selector_all(
        "#tab-heads .caption", "all => all.map(p => [p.id, p.textContent])")
    return {**dict(captions), **{place: page.tab.inner_text(place) for place in (
        "#chips", "#counts", ".turn.now", "#focus .path", ".view-alike .panel")}}


def test_from_an_image_to_the_head_of_another_model(world, page):
    url, model, other = world
    page.open(f"{url}?{urlencode([('model', model), ('model', other), *OF_CLASSIFIERS])}")
    image = pick_an_image(page)
    assert asked(page)["image"] == [image]

    head = find_the_head_that_hurts(page, model)
    assert f"head {model} {head}" in page.tab.inner_text("#chips")
    assert opened(page) == head
    assert asked(page)["heads"] == [f"{head}@{model}"]
    assert f"Image {image}." in page.tab.inner_text("#caption-partial")
    the_part_that_matters(page)

    assert page.plot("layers", "gd.data.reduce((n, t) => n + (t.selectedpoints || []).length, 0)"
                     ) == 1
    assert page.plot("hops", f"gd.data.some(t => (t.name || '').endsWith(' {head}'))")
    assert f"Dotted: image {image}." in page.tab.inner_text("#caption-hops")

    assert f"pattern on image {image}" in page.tab.inner_text("#caption-map")
    assert "pattern: " in page.tab.inner_text(".view-head .panel")
    look_at_its_pattern(page)

    like = its_like_in(page, other)
    assert opened(page) == like
    assert "2 heads" in page.tab.inner_text("#chips")
    assert page.complaints == []
    hosts = {urlparse(u).hostname for u in page.requests if u.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}

    said, link = told(page), page.tab.url
    page.tab.goto("about:blank")
    page.open(link)
    assert told(page) == said
    assert page.complaints == []


OF_CLASSIFIERS = [("importance", "probability_drop"), ("left", "probability")]
"""The story is about what the model predicts, also where the other one predicts nothing."""
