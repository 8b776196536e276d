"""The site in a real browser, from its files: every kind of page, by mouse and keyboard, dark, on a phone, without
JavaScript, on paper, and to axe.

Needs playwright (pip install '.[dev]') and Chromium on the PATH; axe, which judges accessibility, is looked for where
AXE_CORE says (npm install axe-core).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import render_records as rr
from test_render_hostile import BREAKOUT, LONG, RTL, hostile_site  # noqa: F401
from test_study_plots import STUDY

from kdbench.records.literature import Literature, load
from kdbench.records.store import Store
from kdbench.render import build
from kdbench.render.address import method_page, pair_page
from kdbench.render.teachers import teacher_page
from kdbench.studies import STUDIES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    Open = Callable[..., Page]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("AXE_CORE", "")

pytestmark = [
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright: pip install '.[dev]'"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

SUITE, PAIR, ROW = (
    "suites/cifar100-short@1.html",
    "pairs/cifar100/resnet56--resnet20.html",
    "rows/cifar100-short@1/kd.html",
)
TAUGHT = rr.record()
TEACHER = teacher_page("cifar100", TAUGHT["teacher"], TAUGHT["identity"]["teacher"])
#: A page of each kind.
PAGES = {
    "index": "index.html",
    "choose": "choose.html",
    "compare": "compare.html",
    "versus": "compare/dkd--kd.html",
    "find": "find.html",
    "literature": "literature.html",
    "suite": SUITE,
    "row": ROW,
    "pair": PAIR,
    "method": "methods/wttm.html",
    "study": "studies/small.html",
    "changes": "changes.html",
    "page": "about.html",
    "start": "start.html",
    "methods": "methods.html",
    "pairs": "pairs.html",
    "teacher": TEACHER,
}
#: Every rule of axe but those that it calls experimental; it would fetch style sheets, which the policy forbids.
JUDGE = "axe.run({preload: false, resultTypes: ['violations']})"
#: What colours alone decide.
COLOURS = JUDGE.replace("{", "{runOnly: ['color-contrast', 'link-in-text-block'], ", 1)
#: What the browser itself counts as a breach of the page's policy, as it happens.
WATCH = "addEventListener('securitypolicyviolation', (e) => window.breached(e.violatedDirective));"
#: Elements that are scrolled within the page, and which of both ways they need it.
SCROLLERS = """[...document.querySelectorAll('main :is(div, pre, table, section, details)')]
    .filter((e) => /auto|scroll/.test(getComputedStyle(e).overflowY))
    .filter((e) => e.scrollHeight > e.clientHeight + 1 || e.parentElement.closest('.scroll'))
    .map((e) => e.outerHTML.slice(0, 80))"""
#: Elements that reach beyond the window, where nothing that is scrolled holds them.
BEYOND = """[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .filter((e) => !e.closest('.across, .unseen, svg')).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of a suite, a row that has but one of them and is far above all others there, and a study."""
    root = tmp_path_factory.mktemp("browser")
    store = Store(root / "results")
    rr.fill(store, ("resnet56:resnet20", "resnet110:resnet20"), seeds=3, images=100)
    for seed in range(3):
        rr.put(store, 0.9, "crd", seed=seed, images=100)
    whole = load()
    sources, teachers = ("crd_repdistiller", "lskd_logs", "ttm"), ("resnet34", "resnet56")
    fitting = [row for row in whole.rows if row.teacher in teachers]
    some = tuple(row for source in sources for row in [row for row in fitting if row.source == source][:14])
    STUDIES.add("small", (STUDY, "small.toml"), "a test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.render.site.load", lambda **_: Literature(some, whole.sources))
        build(root / "results", root / "out")
    del STUDIES._items["small"], STUDIES._origins["small"]
    return root / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=300_000)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens a file in a new window; what any page of it says in the console, asks of elsewhere or breaches ends the
    test."""
    contexts, wrong = [], []

    def open_page(path: Path, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **settings})
        context.set_default_timeout(120_000)
        context.expose_function("breached", lambda directive: wrong.append(directive))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
        page.add_init_script(WATCH)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def cells(page: Page, table: str, index: int) -> list[str]:
    """The texts of a column of the rows that are shown."""
    return page.eval_on_selector_all(
        f"{table} tbody tr:not(.group):not([hidden])",
        f"(rows) => rows.map((row) => row.cells[{index}].innerText.trim())",
    )


def narrowed(page: Page, width: int, scheme: str = "light") -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_fits_its_window_light_and_dark_and_axe_finds_nothing(opened, site, kind):
    page = opened(site / PAGES[kind])
    if AXE:
        page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    looks = ((1440, "light", JUDGE), (1440, "dark", COLOURS), (768, "dark", ""), (375, "light", COLOURS))
    for width, scheme, judge in (*looks, (375, "dark", JUDGE)):
        narrowed(page, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light == (scheme == "light")
        if AXE and judge:
            found = page.evaluate(judge)
            said = [(v["id"], [node["target"] for node in v["nodes"]][:3]) for v in found["violations"]]
            assert said == [], (width, scheme)
    assert page.evaluate(BEYOND) == []
    assert page.evaluate(SCROLLERS) == [], "on a phone nothing but the page is scrolled up and down"
    if not AXE:
        pytest.skip("axe was not asked: npm install axe-core, and name its axe.min.js in AXE_CORE")


@pytest.mark.parametrize("kind", PAGES)
def test_without_javascript_everything_is_there_and_no_control_is(opened, site, kind):
    page = opened(site / PAGES[kind], java_script_enabled=False, viewport={"width": 375, "height": 800})
    assert len(page.inner_text("main")) > 200
    assert page.locator("th button, input:visible, select:visible").count() == 0
    assert page.locator("#find").is_visible()
    assert page.locator("tbody tr[hidden], tbody td[hidden]").count() == 0


def test_a_row_is_a_card_on_a_phone_gain_and_plot_first(opened, site):
    page = opened(site / SUITE, viewport={"width": 375, "height": 800})
    row = page.locator("[aria-labelledby=results] tbody tr.measured").first
    name, rank, gain, plot = (
        row.locator(css).first.bounding_box() for css in ("th", "td[data-label=Rank]", "td.gain", "td.plot")
    )
    assert name["y"] < gain["y"] == plot["y"] < rank["y"]
    assert gain["x"] < plot["x"]
    said = row.locator("td.gain").evaluate("(cell) => getComputedStyle(cell, '::before').content")
    assert said == '"Mean gain"'
    button = page.locator("[aria-labelledby=results] th button", has_text="Cost")
    button.click()
    costs = row.locator("xpath=..").evaluate("(body) => [...body.rows].map((row) => row.cells[4].dataset.v)")
    assert len(set(costs)) > 1
    assert costs == sorted(costs, reverse=True), "empty ones last"


def test_a_click_sorts_by_number_and_a_second_one_turns_it_around(opened, site):
    page = opened(site / SUITE)
    table = "[aria-labelledby=results] table"
    button = page.locator(f"{table} thead th button", has_text="Mean gain")
    for sign, said in ((1, "ascending"), (-1, "descending")):
        button.click()
        whole = page.eval_on_selector_all(
            f"{table} tbody tr:not([data-part]):not(.baseline)", "(rows) => rows.map((row) => row.cells[2].dataset.v)"
        )
        gains = list(map(float, whole))
        assert len(gains) > 2
        assert gains == sorted(gains, reverse=sign < 0)
        assert page.locator("#said").inner_text() == f"Sorted by Mean gain over the student alone, {said}."


def test_no_click_lifts_a_row_that_lacks_pairs_above_one_that_has_all(opened, site):
    page = opened(site / SUITE)
    table = "[aria-labelledby=results] table"
    assert cells(page, table, 5)[-1] == "1 of 13"
    assert float(cells(page, table, 2)[-1].split()[0]) > 20, "it would be first"
    buttons = page.locator(f"{table} thead th button")
    for at in range(buttons.count()):
        for _ in range(2):
            buttons.nth(at).click()
            assert cells(page, table, 0)[-1] == "crd", at


def test_what_is_sorted_and_hidden_survives_a_reload_and_the_way_back(opened, site):
    page = opened(site / SUITE)
    table = "[aria-labelledby=results] table"
    page.locator(f"{table} thead th button", has_text="Method").click()
    page.locator(".columns-shown summary").first.click()
    page.locator(".columns-shown label", has_text="Rank").locator("input").uncheck()
    state = page.url.partition("#~")[2]
    assert set(state.split("&")) == {"s0=0a", "h0=1"}

    def holds() -> None:
        names = cells(page, table, 0)
        assert names[:-1] == sorted(names[:-1])
        assert page.locator(f"{table} thead th").nth(1).is_hidden()
        assert page.locator(f"{table} tbody tr").first.locator("td").nth(0).is_hidden()

    holds()
    page.reload()
    holds()
    page.locator(f"{table} tbody th a").first.click()
    page.wait_for_url("**/methods/**")
    page.go_back()
    page.wait_for_url(f"**#~{state}")
    holds()
    page.locator(".columns-shown label", has_text="Rank").locator("input").evaluate("(box) => box.click()")
    assert page.url.endswith("#~s0=0a")


def test_the_reported_rows_of_a_context_are_sorted_within_it(opened, site):
    page = opened(site / PAIR)
    groups = "(bodies) => bodies.map((body) => [...body.rows].slice(1).map((row) => row.cells[0].innerText))"
    heads = "(bodies) => bodies.map((body) => body.rows[0].className)"
    before = page.eval_on_selector_all("#rows-top1 tbody", groups)
    page.locator("#rows-top1 thead th button", has_text="Method").click()
    after = page.eval_on_selector_all("#rows-top1 tbody", groups)
    assert len(before) > 2
    assert after == [sorted(group) for group in before]
    assert set(page.eval_on_selector_all("#rows-top1 tbody", heads)) == {"group"}


def test_filters_join_hide_the_heads_of_empty_groups_and_survive_a_reload(opened, site):
    page = opened(site / PAIR)
    page.select_option("#filter-top1", "last")
    rows = page.eval_on_selector_all(
        "#rows-top1 tbody tr:not([hidden])", "(rows) => rows.map((r) => r.className || r.dataset.selection)"
    )
    assert set(rows) == {"group", "last"}
    page.goto((site / "literature.html").as_uri())
    page.select_option("#top1-source", "crd_repdistiller")
    page.select_option("#top1-selection", "last")
    for _ in range(2):
        sources = cells(page, "#rows-top1", 8)
        assert len(sources) > 5
        assert all(text.startswith("crd_repdistiller") for text in sources)
        assert page.locator("#said").inner_text().startswith(f"{len(sources)} of ")
        page.reload()
    assert page.locator("#top1-source option[value=ttm]").is_disabled(), "it says no epoch"
    page.goto("about:blank")
    page.goto((site / "literature.html").as_uri() + "#~f-top1-source=ttm&f-top1-selection=last")
    said = page.locator(".nothing").inner_text()
    assert said.startswith("No row fits. Loosen \u201c")
    assert cells(page, "#rows-top1", 0) == []
    name, left = re.findall(r"\u201c(.+)\u201d.* leaves (\d+)\.", said)[0]
    page.select_option({"Selection": "#top1-selection", "Source": "#top1-source"}[name], "")
    assert len(cells(page, "#rows-top1", 0)) == int(left) > 0
    assert page.locator(".nothing").is_hidden()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ResNet-34", "resnet34 → resnet18 on imagenet"),
        ("r34", "resnet34 → resnet18 on imagenet"),
        ("R56 resnet-20", "resnet56 → resnet20 on cifar100"),
        ("resnet56->resnet20", "resnet56 → resnet20 on cifar100"),
        ("resnet56:resnet20", "resnet56 → resnet20 on cifar100"),
        ("Transformed Teacher Matching", "wttm"),
        ("decoupled zhao", "dkd"),
        ("cifar100-short", "cifar100-short@1"),
        ("of small things", "Small"),
    ],
)
def test_the_search_finds_by_alias_and_by_paper(opened, site, query, found):
    page = opened(site / PAIR)
    page.keyboard.press("/")
    page.keyboard.type(query)
    entry = page.locator("#found [role=option] a", has_text=found).first
    entry.wait_for()
    assert page.locator(".finder input").get_attribute("aria-expanded") == "true"
    entry.click()
    page.wait_for_url("**.html")
    assert page.locator("h1").inner_text().startswith(found.partition("@")[0])


def test_the_search_leads_to_a_source_of_printed_numbers(opened, site):
    page = opened(site / PAIR)
    page.keyboard.press("/")
    page.keyboard.type("repdistiller source")
    page.locator("#found [role=option] a", has_text="crd_repdistiller").first.click()
    page.wait_for_url("**/literature.html#source-crd_repdistiller")
    assert page.locator("#source-crd_repdistiller").is_visible()


def test_a_search_for_nothing_says_so(opened, site):
    page = opened(site / PAGES["index"])
    page.locator(".finder input").fill("no such thing")
    none = page.locator("#found li")
    none.wait_for()
    assert none.inner_text() == "Nothing is called that."
    page.keyboard.press("Escape")
    assert none.is_hidden()
    page.goto((site / "methods.html").as_uri())
    page.locator("#search").fill("no such method")
    assert page.locator(".nothing").inner_text().startswith("No row fits. Loosen \u201cFind a method\u201d")


def test_the_search_goes_where_the_keyboard_says(opened, site):
    page = opened(site / PAGES["index"])
    page.locator(".finder input").fill("wttm")
    page.locator("#found li").first.wait_for()
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#found [aria-selected=true]")
    assert page.locator(".finder input").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("Enter")
    page.wait_for_url("**/methods/wttm.html")


def test_a_list_offers_what_the_other_controls_leave(opened, site):
    page = opened(site / PAGES["choose"])
    offered = "#choose-teacher option:not([disabled])"
    before = page.locator(offered).count()
    page.select_option("#choose-student", "resnet18")
    assert 1 < page.locator(offered).count() < before
    assert page.locator(offered, has_text="resnet56").count() == 0
    page.select_option("#choose-student", "")
    assert page.locator(offered).count() == before


def test_a_budget_leaves_the_best_of_what_it_allows_on_every_line(opened, site):
    page = opened(site / PAGES["choose"])
    row = page.locator("#pairs tbody tr", has_text="resnet56 \u2192 resnet20")
    before = row.inner_text()
    page.locator("#budget").fill("0.5")
    assert row.is_hidden(), "nothing costs as little"
    page.locator("#budget").fill("1.2")
    assert row.is_visible()
    assert row.locator("td a").first.get_attribute("href").startswith("methods/")
    page.reload()
    assert page.locator("#budget").input_value() == "1.2"
    page.locator("[data-limit][value=stages]").check()
    address = row.locator("th a").get_attribute("href")
    assert "f-budget=1.2" in address
    assert "f-stages=1" in address, "the page of the pair is asked the same"
    page.locator("[data-limit][value=stages]").uncheck()
    page.locator("#budget").fill("")
    assert row.inner_text() == before


def test_limits_keep_the_badge_of_the_evidence_and_say_how_many_rows_fit(opened, site):
    page = opened(site / PAGES["choose"])
    rows = page.locator("#pairs tbody tr")
    assert page.locator(".fits").count() == 0
    page.locator("#budget").fill("100")
    badges = page.locator("#pairs tbody tr:not([hidden]) .badge")
    shown = page.locator("#pairs tbody tr:not([hidden])").count()
    assert badges.count() > 0
    grades = page.locator("#choose-grade option").all_inner_texts()
    assert set(badges.all_inner_texts()) <= set(grades)
    assert page.locator(".fits").inner_text() == f"{shown} of {rows.count()} rows fit."
    page.locator("#budget").fill("")
    assert page.locator(".fits").is_hidden()


def test_limits_that_nothing_fits_name_the_one_that_is_in_the_way(opened, site):
    page = opened(site / PAGES["choose"])
    page.locator("[data-limit][value=stages]").check()
    page.locator("#budget").fill("0.01")
    assert "Loosen \u201cBudget, \u00d7 student alone\u201d" in page.locator(".nothing").inner_text()


def test_a_link_within_the_page_keeps_what_is_sorted_and_filtered(opened, site):
    page = opened(site / "literature.html")
    page.select_option("#top1-source", "crd_repdistiller")
    page.locator("main ul a[href='#sources']").click()
    assert page.url.endswith("#sources~f-top1-source=crd_repdistiller")
    for _ in range(2):
        assert page.locator("#sources").evaluate("(e) => e.matches(':target')")
        assert all(text.startswith("crd_repdistiller") for text in cells(page, "#rows-top1", 8))
        page.reload()
    page.locator(".brand").click()
    page.wait_for_url("**/index.html")
    page.go_back()
    page.wait_for_url("**/literature.html#sources~*")
    assert page.locator("#top1-source").input_value() == "crd_repdistiller"
    page.go_back()
    page.wait_for_url("**/literature.html#~f-top1-source=crd_repdistiller")
    assert page.locator("#top1-source").input_value() == "crd_repdistiller"
    page.select_option("#top1-source", "")
    assert page.url.endswith("literature.html")


@pytest.mark.parametrize("kind", ["suite", "pair", "literature", "method"])
def test_no_two_buttons_that_sort_are_called_alike(opened, site, kind):
    page = opened(site / PAGES[kind])
    names = page.eval_on_selector_all("th button", "(all) => all.map((e) => e.ariaLabel ?? e.innerText.trim())")
    assert len(names) > 5
    assert sorted(set(names)) == sorted(names)


def test_the_heads_of_a_matrix_stay_while_it_is_scrolled(opened, site):
    page = opened(site / SUITE)
    box = page.locator("[aria-labelledby=matrix]")
    box.scroll_into_view_if_needed()
    top = "(e) => e.getBoundingClientRect().top"
    head = box.locator("thead th").last
    box.evaluate("(box) => { box.style.maxHeight = '8rem'; }")
    scrolled = "(box) => { box.scrollTop = 60; return box.scrollTop > 0; }"
    page.wait_for_function(scrolled, arg=box.element_handle())  # what is out of sight is laid out late
    assert 0 <= head.evaluate(top) - box.evaluate(top) <= 2


@pytest.mark.parametrize("kind", ["literature", "pair", "row", "teachers"])
def test_no_table_of_a_page_is_wider_than_a_screen(opened, site, kind):
    page = opened(site / PAGES.get(kind, f"{kind}.html"))
    wide = "(all) => all.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute('aria-labelledby'))"
    assert page.eval_on_selector_all(".scroll", wide) == []


def test_controls_of_one_table_leave_others_alone(opened, site):
    page = opened(site / PAIR)
    reported = page.locator("#rows-top1 tbody tr:not(.group):not([hidden])").count()
    page.locator("#budget").fill("2")
    assert page.locator("#rows-top1 tbody tr:not(.group):not([hidden])").count() == reported
    assert page.locator("#filter-top1 option[disabled]").count() == 0
    page.select_option("#filter-top1", "last")
    assert page.locator("#options tbody tr:not([hidden])").count() > 0


def test_an_address_that_is_pasted_into_an_open_page_is_obeyed(opened, site):
    page = opened(site / PAGES["methods"])
    page.goto((site / PAGES["methods"]).as_uri() + "#~f-search=wttm")
    page.wait_for_function("document.getElementById('search').value === 'wttm'")
    assert page.locator("tbody tr:not([hidden])").count() < page.locator("tbody tr").count()


def test_two_methods_in_the_search_are_a_comparison(opened, site):
    page = opened(site / PAGES["index"])
    page.locator(".finder input").fill("wttm against dkd")
    page.locator("#found a", has_text="dkd against wttm").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare/dkd--wttm.html")
    page.locator(".finder input").fill("sdd(kd) versus kd-of-nobody")
    page.locator("#found [aria-disabled]").wait_for()
    page.locator(".finder input").fill("wttm versus fitnet")
    page.locator("#found a").nth(1).wait_for()
    found = [text.split("\n")[0].split()[0] for text in page.locator("#found a").all_inner_texts()]
    assert found[:2] == ["fitnet", "wttm"], "they share nothing, and have a page each"
    page.locator(".finder input").fill("decoupled knowledge distillation")
    page.locator("#found a").first.wait_for()
    assert page.locator("#found a").first.inner_text().split()[0] == "dkd"


def test_limits_on_a_pair_name_what_is_left(opened, site):
    page = opened(site / PAIR)
    left = page.locator("[data-left=options]")
    assert left.is_hidden()
    for box in page.locator("[data-without]").all():
        box.check()
    assert left.inner_text().startswith("Best supported of what is left: ")
    named = left.inner_text().partition(": ")[2].rstrip(".").partition(",")[0]
    assert named in [text.split("\n")[0] for text in cells(page, "#options", 0)]
    page.locator("#budget").fill("0.01")
    assert left.inner_text().startswith("Nothing is left. Of unknown cost, and so left out: ")
    page.locator("#budget").fill("")
    for box in page.locator("[data-without]").all():
        box.uncheck()
    assert left.is_hidden()
    every = page.locator("[data-each]")
    every.check()
    assert all(box.is_checked() for box in page.locator("[data-without]").all())
    assert left.inner_text().startswith("Best supported of what is left: ")
    page.locator("[data-without]").first.uncheck()
    assert not every.is_checked()
    every.check()
    every.uncheck()
    assert not any(box.is_checked() for box in page.locator("[data-without]").all())


def test_a_budget_says_what_it_leaves_out_for_want_of_a_cost(opened, site):
    page = opened(site / PAIR)
    page.locator("#budget").fill("100")
    text = page.locator("[data-left=options]").inner_text()
    unknown = [row for row in page.locator("#options tbody tr").all() if row.get_attribute("data-cost") == ""]
    assert f"Of unknown cost, and so left out: {unknown[0].locator('a').first.inner_text()}" in text
    assert f"and {len(unknown) - 1} more." in text


def test_a_whole_name_is_searched_for_as_such(opened, site):
    page = opened(site / PAGES["compare"])
    page.locator("#search").fill("kd")
    found = [text.split("\n")[0] for text in cells(page, ".searchable", 0)]
    assert found
    assert all(
        "kd" in text.replace(" pairs disagree", "").removesuffix(" short").split(" \u2013 ") for text in found
    ), "and not dkd alone"
    page.locator("#search").fill("dkd vs kd")
    assert len(cells(page, ".searchable", 0)) == 1
    page.locator("#search").fill("dk")
    assert cells(page, ".searchable", 0), "a part of a name finds, too"


def test_a_phone_shows_the_first_rows_of_a_long_table_and_all_when_asked(opened, site):
    page = opened(site / PAGES["literature"], viewport={"width": 375, "height": 800})
    long = page.locator("#rows-top1")
    rows, shown = long.locator("tbody tr").count(), long.locator("tbody tr:visible").count()
    assert 20 == shown < rows
    more = long.locator("xpath=following-sibling::p[@class='more']/button")
    assert more.inner_text() == f"Show all {rows} rows"
    page.set_viewport_size({"width": 1440, "height": 900})
    assert long.locator("tbody tr:visible").count() == rows, "a screen has them all"
    page.set_viewport_size({"width": 375, "height": 800})
    for _ in range(2):
        if more.is_visible():
            more.click()
        assert long.locator("tbody tr:visible").count() == rows
        page.reload()


def test_a_teachers_accuracy_leads_to_what_stands_behind_it(opened, site):
    page = opened(site / PAIR)
    page.locator("[aria-labelledby=teachers] td a.value").first.click()
    assert page.url.endswith(TEACHER)
    assert "72.63" in page.inner_text("main")


def test_a_seed_leads_to_its_record_and_unfolds_it(opened, site):
    page = opened(site / ROW)
    assert page.locator("details[open]").count() == 0
    page.locator('tbody a[href^="#record-"]').first.click()
    assert "Predictions" in page.locator("details[open]").inner_text()


def test_two_clicks_answer_which_method_and_whether_the_gain_is_real(opened, site):
    page = opened(site / PAGES["index"])
    page.locator("main a", has_text="Which method should I use?").click()
    page.locator("#pairs tbody a", has_text="resnet56 → resnet20").click()
    assert page.url.endswith(PAIR)
    assert "Best supported" in page.locator(".verdict").inner_text()
    page.locator("#budget").fill("1.05")
    assert page.locator("#options tbody tr", has_text="kd").first.is_hidden(), "it costs 1.07"
    page.goto((site / PAGES["index"]).as_uri())
    page.locator("main a", has_text="Is the gain real?").click()
    page.locator("tbody a", has_text="dkd – kd").first.click()
    assert page.url.endswith(PAGES["versus"])
    assert "dkd minus kd" in page.locator(".verdict").inner_text()


@pytest.mark.parametrize("kind", ["suite", "pair", "versus", "method"])
def test_two_clicks_lead_from_a_measured_number_to_its_record(opened, site, kind):
    page = opened(site / PAGES[kind])
    page.locator("td a[href*='rows/']", has_text="±").last.click()
    page.wait_for_url("**/rows/**")
    page.locator("summary", has_text="Record of seed").first.click()
    facts = page.locator("details[open] table.facts").first.inner_text()
    for name in ("Key", "Record", "Predictions", "kdbench", "torch", "Machine", "Made"):
        assert name in facts
    assert "v1/predictions/" in facts


@pytest.mark.parametrize("kind", ["suite", "row", "pair", "literature", "study"])
def test_a_printed_page_cuts_nothing_off(opened, site, kind):
    page = opened(site / PAGES[kind], viewport={"width": 1040, "height": 720})  # A4 across, at 96 dots an inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1040
    assert page.evaluate(BEYOND.replace(".across, ", "")) == []
    held = "(boxes) => boxes.filter((box) => getComputedStyle(box).overflowY !== 'visible').length"
    assert page.eval_on_selector_all(".scroll, pre", held) == 0
    stuck = "(all) => all.filter((e) => getComputedStyle(e).position === 'sticky').length"
    assert page.eval_on_selector_all("main *", stuck) == 0
    closed = "(all) => all.filter((e) => e.lastElementChild.getBoundingClientRect().height === 0).length"
    assert page.eval_on_selector_all("details:not(.columns-shown)", closed) == 0
    assert page.locator("header").is_hidden()


def test_what_is_said_of_a_claim_stands_beside_its_name(opened, site):
    page = opened(site / PAGES["study"])
    name, said = page.locator("dl.facts dt").first.bounding_box(), page.locator("dl.facts dd").first.bounding_box()
    assert abs(name["y"] - said["y"]) < 2
    assert name["x"] + name["width"] < said["x"]


#: Words of a table, of up to nine letters, that stand on two lines.
BROKEN = r"""() => {
    const found = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode()); ) {
        const around = node.parentElement;
        if (!around.closest("td, th") || around.closest("svg, code, .source, .across")) continue;
        for (const word of node.data.matchAll(/[A-Za-z0-9_]{2,9}(?![A-Za-z0-9_])/g)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top / 4)));
            if (lines.size > 1) found.push(word[0]);
        }
    }
    return found;
}"""


@pytest.mark.parametrize("kind", ["literature", "teachers", "row", "method"])
def test_no_usual_word_is_broken_on_paper(opened, site, kind):
    page = opened(site / PAGES.get(kind, f"{kind}.html"), viewport={"width": 1040, "height": 720})
    page.emulate_media(media="print")
    assert page.evaluate(BROKEN) == []


def test_thirteen_pairs_and_a_matrix_of_sixty_rows_fit_on_paper(opened, site):
    page = opened(site / SUITE, viewport={"width": 1040, "height": 720})
    page.emulate_media(media="print")
    for table, columns, rows in (("[aria-labelledby=results] table", 13, 1), (".matrix", 60, 60)):
        page.locator(table).evaluate(
            """(table, [columns, rows]) => {
                table.classList.add(columns === 13 ? "many" : "large");
                for (const row of table.rows)
                    while (row.cells.length < columns + 6) row.append(row.lastElementChild.cloneNode(true));
                const body = table.tBodies[0];
                while (body.rows.length < rows) body.append(body.lastElementChild.cloneNode(true));
            }""",
            [columns, rows],
        )
    assert page.evaluate(BEYOND.replace(".across, ", "")) == []


def test_the_keyboard_reaches_the_content_and_the_sorting(opened, site):
    page = opened(site / SUITE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    page.locator("th button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").count() >= 1


def test_hostile_text_runs_nothing_and_stays_in_its_box(opened, hostile_site):  # noqa: F811
    some = (BREAKOUT, LONG, RTL)
    pages = {hostile_site / page for text in some for page in (method_page(text), pair_page("cifar100", text, text))}
    pages |= {hostile_site / method_page("evil-method"), *hostile_site.glob("*.html")}
    pages |= {*hostile_site.glob("suites/*.html"), *sorted(hostile_site.glob("rows/*/*.html"))[:3]}
    pages |= set(sorted(hostile_site.glob("compare/evil*.html"))[:2])
    page = opened(hostile_site / "index.html", viewport={"width": 375, "height": 800})
    for path in sorted(pages):
        page.goto(path.as_uri())
        assert page.evaluate(BEYOND) == [], path.name
        assert page.evaluate(SCROLLERS) == [], path.name
        narrowed(page, 1440)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440, path.name
        narrowed(page, 375)


def test_right_to_left_text_turns_nothing_around_it(opened, hostile_site):  # noqa: F811
    """In a row of the literature a Hebrew name stands before its number, as any other does."""
    page = opened(hostile_site / "literature.html")
    row = page.locator("#rows-top1 tbody tr", has_text=RTL).first
    name, value = row.locator("th").bounding_box(), row.locator("td[data-label=Value]").bounding_box()
    assert name["x"] < value["x"]
    arrow = row.locator("td a bdi")
    teacher, student = arrow.nth(0).bounding_box(), arrow.nth(1).bounding_box()
    assert (teacher["y"], teacher["x"]) < (student["y"], student["x"]), "the arrow between them points to the right"
