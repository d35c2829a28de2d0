"""Light and dark, keys, waiting, a server that goes away, and measures that explain themselves."""

from __future__ import annotations

from itertools import pairwise
from urllib.parse import parse_qs, urlparse

import pytest

from dashapp.guide import EXPLAINED, JUMPS, column
from dashapp.views import VIEWS
from tests.browser.conftest import Page

pytestmark = pytest.mark.browser

CALLBACKS = "**/_dash-update-component*"
DARK = "document.documentElement.dataset.bsTheme"

RATIO = """(selector) => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, under) => { const a = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map((i) => a * top[i] + (1 - a) * under[i]); };
  const light = (c) => { const l = c.slice(0, 3).map((v) => v / 255).map(
      (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
  const element = [...document.querySelectorAll(selector)].find((e) => e.offsetParent);
  if (!element) return null;
  const grounds = [];
  for (let e = element; e; e = e.parentElement) {
    grounds.push(parse(getComputedStyle(e).backgroundColor));
  }
  const ground = grounds.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  const ink = over(parse(getComputedStyle(element).color), ground);
  const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
  return (a + .05) / (b + .05);
}"""
"""The contrast of an element's text with what is painted behind it, as WCAG defines it."""

TEXTS = ["h1", "h2", ".caption", ".hint", ".jump", ".labelled > span", ".small-button",
         "#tab label:not(.active)", "#tab .btn-check:checked + label", ".chip-text", ".chip-all",
         "#counts", "#counts b", ".model-name", ".model-facts", "#importance", "#choose-head",
         "#outcome", ".bar-name", ".bar-value", ".evidence .meaning", ".evidence th", ".turn.now",
         ".tile b", ".tile .hint", ".counts", "footer span", ".explain summary", ".path",
         ".dash-dropdown-value, .dash-dropdown-placeholder", "#message"]


@pytest.fixture
def dark(chromium):
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark")
    yield context
    context.close()


def in_tab(context) -> Page:
    return Page(context.new_page())


def test_text_can_be_read_in_light_and_dark(page, served):
    """At once: no text lingers in the colours that were."""
    page.open(served + "?model=alpha&label=cat&heads=0.1,3.2@alpha&image=3&label=unicorn")
    for theme in ("light", "dark"):
        page.tab.evaluate(f"{DARK} = '{theme}'")
        found = {text: page.tab.evaluate(RATIO, text) for text in TEXTS}
        assert [text for text, ratio in found.items() if ratio is None] == []
        assert {text: round(ratio, 2) for text, ratio in found.items() if ratio < 4.5} == {}, theme


def test_the_button_turns_the_colours_and_the_browser_keeps_them(page, served):
    page.open(served + "?model=alpha")
    assert page.tab.evaluate(DARK) == "light"
    url = page.tab.url
    grounds = {page.tab.evaluate("getComputedStyle(document.body).backgroundColor")}
    for said, theme in (("light", "light"), ("dark", "dark")):
        page.tab.click("#theme")
        assert page.tab.evaluate("document.documentElement.dataset.theme") == said
        assert page.tab.evaluate(DARK) == theme
        grounds.add(page.tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    assert page.tab.url == url
    page.tab.add_init_script(
        "new MutationObserver((_, all) => { if (document.body) { window.atFirst = "
        "document.documentElement.dataset.bsTheme; all.disconnect(); } })"
        ".observe(document, { childList: true, subtree: true })")
    page.tab.reload()
    assert page.tab.evaluate("window.atFirst") == "dark"
    assert page.complaints == []


def test_the_system_decides_while_nobody_chose(dark, served):
    page = in_tab(dark).open(served + "?model=alpha&marks=thumbnails")
    assert page.tab.evaluate(DARK) == "dark"
    turned = page.tab.evaluate("""[...document.querySelectorAll('#plot-overview .imagelayer image')]
        .map(image => { let count = 0; for (let e = image; e; e = e.parentElement)
          count += getComputedStyle(e).filter !== 'none'; return count; })""")
    assert turned
    assert set(turned) == {0}  # photographs look as they are
    titles = page.tab.evaluate("""[...document.querySelectorAll('.js-plotly-plot .xtitle')]
        .filter(text => text.getBoundingClientRect().width).map(text => {
          let count = 0; for (let e = text; e; e = e.parentElement)
            count += getComputedStyle(e).filter !== 'none'; return count; })""")
    assert titles
    assert set(titles) == {1}  # once: twice would be dark on dark again
    page.tab.emulate_media(color_scheme="light")
    page.tab.wait_for_function(f"{DARK} === 'light'")


def focused(page) -> str:
    return page.tab.evaluate("(e => e.id || e.dataset.jump || e.className || e.tagName)"
                             "(document.activeElement)")


def test_tab_goes_through_the_page_and_shows_where_it_is(page, served):
    page.open(served + "?model=alpha")
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.className") == "skip"
    places, unseen = [], []
    for _ in range(34):
        page.tab.keyboard.press("Tab")
        place = page.tab.evaluate(
            "(e => { const ring = (x) => x && getComputedStyle(x).outlineStyle !== 'none';"
            "const box = e.getBoundingClientRect(); return [e.id || e.className,"
            "ring(e) || ring(e.nextElementSibling) || ring(e.parentElement), "
            "box.top + window.scrollY]; })(document.activeElement)")
        places.append(place)
        if not place[1]:
            unseen.append(place[0])
    assert unseen == []
    tops = [top for _, _, top in places]
    assert max(before - after for before, after in pairwise(tops)) < 150  # down the page
    assert {"models", "colour", "find"} <= {name for name, _, _ in places}


def test_the_skip_link_leads_to_the_charts(page, served):
    page.open(served + "?model=alpha")
    page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Enter")
    assert focused(page) == "charts"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.getElementById('charts').contains(document.activeElement)")
    assert "#" not in page.tab.url


def test_digits_and_arrows_turn_the_tabs(page, served):
    page.open(served + "?model=alpha&model=gamma")
    for key, tab in (("2", "compare"), ("3", "sql"), ("ArrowLeft", "compare"), ("1", "heads")):
        page.tab.keyboard.press(key)
        page.tab.wait_for_selector(f"#page.on-{tab}")
        page.settle()
    page.tab.fill("#find", "2")
    assert page.tab.locator("#page.on-heads").count() == 1  # a digit that is typed is a digit


AT_THE_TOP = """(id) => {
  const [top, head] = [document.getElementById(id), document.querySelector(".top")].map(
      (e) => e.getBoundingClientRect());
  return (head.height - 2 <= top.y && top.y < 200) ||
    scrollY + innerHeight > document.body.scrollHeight - 4; }"""
"""Whether a view stands right under the header, or as high as the page's end allows."""


def test_jump_links_lead_to_their_views_and_leave_the_url(page, served):
    page.open(served + "?model=alpha")
    url = page.tab.url
    names = page.tab.eval_on_selector_all(
        ".jump", "all => all.filter(a => a.offsetParent).map(a => a.dataset.jump)")
    assert names == [f"view-{v.id}" for v in VIEWS if v.tab == "heads" and v.id in JUMPS]
    for name in names:
        page.tab.focus(f".jump[data-jump={name}]")
        page.tab.keyboard.press("Enter")
        page.tab.wait_for_function(AT_THE_TOP, arg=name)
        assert focused(page) == name
    assert page.tab.url == url


def test_what_is_open_closes_with_escape(page, served):
    page.open(served + "?model=alpha")
    page.tab.keyboard.press("?")
    assert "turn to the tab" in page.tab.inner_text("#keys[open]")
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("#keys[open]").count() == 0
    page.tab.focus(".view-matrix .explain summary")
    page.tab.keyboard.press("Enter")
    assert page.tab.locator(".view-matrix details[open]").count() == 1
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("details[open]:not(.stays)").count() == 0
    assert page.tab.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.tab.click(".view-matrix .tools button >> nth=0")
    page.tab.wait_for_selector("#sql-body pre")
    page.tab.keyboard.press("Escape")
    page.tab.wait_for_selector("#sql-body pre", state="detached")


def test_heads_are_chosen_by_their_numbers(page, served):
    page.open(served + "?model=alpha&model=gamma")
    for text, chosen in (("0.1", ["0.1@alpha"]), (" 2.5@gam ", ["0.1@alpha", "2.5@gamma"]),
                         ("0.1@alpha", ["2.5@gamma"])):
        page.tab.fill("#choose-head", text)
        page.tab.press("#choose-head", "Enter")
        page.settle()
        assert parse_qs(urlparse(page.tab.url).query)["heads"] == chosen
        assert page.tab.input_value("#choose-head") == ""
    url = page.tab.url
    for text, says in (("6.0", "layers 0 to 5"), ("nonsense", "LAYER.HEAD"),
                       ("0.1@zeta", "called zeta")):
        page.tab.fill("#choose-head", text)
        page.tab.press("#choose-head", "Enter")
        assert says in page.tab.evaluate(
            "document.getElementById('choose-head').validationMessage")
    assert page.tab.url == url


def test_everything_that_can_be_used_has_a_name(page, served):
    for search in ("?model=alpha&heads=0.1@alpha&image=3", "?tab=compare&model=alpha&model=gamma"):
        page.open(served + search)
        nameless = page.tab.evaluate("""[...document.querySelectorAll(
          '#page button, #page input, #page select, #page textarea, #page summary, #page a[href]')]
          .filter(e => e.offsetParent && !e.closest('.modebar') && ![e.getAttribute('aria-label'),
            e.title, e.textContent, e.placeholder, ...[...(e.labels || [])].map(l => l.textContent),
            getComputedStyle(e, '::after').content.replace('none', '')]
              .some(text => (text || '').trim())).map(e => e.outerHTML.slice(0, 120))""")
        assert nameless == []
        charts = page.tab.evaluate(
            "[...document.querySelectorAll('.plot')].filter(e => e.offsetParent).map(e => "
            "e.getAttribute('aria-labelledby').split(' ').map(id => "
            "document.getElementById(id).textContent))")
        assert charts
        assert all(title for title, _ in charts)


def test_each_choice_of_a_measure_explains_it(page, served):
    page.open(served + "?tab=compare&model=alpha&model=gamma&shade=distance")
    for name in EXPLAINED:
        chosen = page.tab.evaluate(
            "name => { const e = document.getElementById(name); return e.value || "
            "e.querySelector('input:checked').value; }", name)
        one = column(name, chosen)
        assert one is not None
        assert one.text in page.tab.text_content(f"#about-{name}")
    page.tab.select_option("#compared", "sink")
    page.settle()
    assert column("compared", "sink").text in page.tab.text_content("#about-compared")


def test_a_slow_answer_shows_a_bar_that_goes_when_it_is_there(page, served):
    page.open(served + "?model=alpha")
    assert page.tab.locator("html.waiting").count() == 0
    hold, held = True, []
    page.tab.route(CALLBACKS, lambda route: held.append(route) if hold else route.continue_())
    page.tab.evaluate("window.headatlasSend({kind: 'heads', op: 'toggle', keys: ['0.1@alpha']})")
    page.tab.wait_for_selector("html.waiting")
    assert "shown" in page.tab.evaluate(
        "getComputedStyle(document.documentElement, '::after').animationName")
    hold = False
    for route in held:
        route.continue_()
    page.settle()
    assert page.tab.locator("html.waiting").count() == 0
    assert "0.1" in page.tab.inner_text("#chips")


def test_a_server_that_goes_away_is_said_and_nothing_is_lost(page, served):
    page.open(served + "?model=alpha")
    page.tab.route(CALLBACKS, lambda route: route.abort("connectionrefused"))
    page.tab.fill("#choose-head", "0.1")
    page.tab.press("#choose-head", "Enter")
    page.tab.wait_for_selector("#away:not([hidden])")
    assert "does not answer" in page.tab.inner_text("#away")
    assert page.tab.locator("#chips .chip").count() == 0
    page.tab.unroute(CALLBACKS)
    page.tab.wait_for_selector("#away", state="hidden")
    page.tab.wait_for_selector("#chips .chip")
    page.settle()
    assert "head alpha 0.1" in page.tab.inner_text("#chips")


def test_motion_is_reduced_where_it_is_asked_for(chromium, served):
    context = chromium.new_context(reduced_motion="reduce")
    page = in_tab(context).open(served + "?model=alpha")
    page.tab.evaluate("document.documentElement.classList.add('waiting')")
    assert "passing" not in page.tab.evaluate(
        "getComputedStyle(document.documentElement, '::after').animationName")
    assert page.tab.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    context.close()
