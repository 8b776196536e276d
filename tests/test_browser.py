"""The site in a real browser, from its files: sorting, filtering, dark, narrow, without JavaScript, and to axe.

Needs playwright (pip install '.[dev]') and Chromium on the PATH; axe, which judges accessibility, is looked for where
AXE_CORE says (npm install axe-core).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import render_records as rr
from test_render_hostile import hostile_site  # noqa: F401

from kdbench.records.literature import Literature, load
from kdbench.records.store import Store
from kdbench.render import build

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("AXE_CORE", "")

pytestmark = [
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright: pip install '.[dev]'"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

SUITE, PAIR, METHOD = "suites/cifar100-short@1.html", "pairs/cifar100/resnet56--resnet20.html", "methods/wttm.html"
PAGES = ("index.html", "about.html", "literature.html", SUITE, PAIR, METHOD, "methods/kd+lskd.html")
#: Every rule of axe but those that it calls experimental; it would fetch style sheets, which the policy forbids.
JUDGE = "axe.run({preload: false, resultTypes: ['violations']})"
#: What the browser itself counts as a breach of the page's policy, as it happens.
WATCH = "window.breaches = []; addEventListener('securitypolicyviolation', (e) => breaches.push(e.violatedDirective));"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    rr.fill(Store(root / "results"), seeds=2, images=100)
    whole = load()
    some = Literature(tuple(row for row in whole.rows if row.teacher in ("resnet56", "none")), whole.sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.render.site.load", lambda: some)
        build(root / "results", root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=300_000)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Opens a file in a new window; what it says in the console, asks of elsewhere or breaches ends the test."""
    contexts, wrong = [], []

    def open_page(path: Path, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **settings})
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
        if settings.get("java_script_enabled", True):
            page.add_init_script(WATCH)
        page.goto(path.as_uri())
        return page

    yield open_page
    breaches = [b for context in contexts for page in context.pages for b in _breaches(page)]
    for context in contexts:
        context.close()
    assert (wrong, breaches) == ([], [])


def _breaches(page: Page) -> list[str]:
    return list(page.evaluate("window.breaches || []"))


def column(page: Page, table: str, index: int) -> list[str]:
    return page.eval_on_selector_all(
        f"{table} tbody tr:not(.group):not([hidden])",
        f"(rows) => rows.map((row) => row.cells[{index}].innerText.trim())",
    )


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_wide_as_its_window_light_and_dark_and_axe_finds_nothing(opened, site, name):
    page = opened(site / name)
    if AXE:
        page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    for width, scheme in ((1440, "light"), (768, "dark"), (375, "dark"), (375, "light")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light == (scheme == "light")
        if AXE:
            found = page.evaluate(JUDGE)
            said = [(v["id"], [node["target"] for node in v["nodes"]][:3]) for v in found["violations"]]
            assert said == [], (width, scheme)
    if not AXE:
        pytest.skip("axe was not asked: npm install axe-core, and name its axe.min.js in AXE_CORE")


def test_a_click_sorts_by_number_and_a_second_one_turns_it_around(opened, site):
    page = opened(site / SUITE)
    table = "[aria-labelledby=results] table"
    button = page.locator(f"{table} thead th button", has_text="Mean gain")
    for sign, said in ((1, "ascending"), (-1, "descending")):
        button.click()
        gains = [
            float(text.split()[0].replace("\u2212", "-")) for text in column(page, table, 2) if text[0] in "+\u2212"
        ]
        assert len(gains) > 2
        assert gains == sorted(gains, reverse=sign < 0)
        assert page.locator("#said").inner_text() == f"Sorted by Mean gain over the student alone, {said}."


def test_the_reported_rows_of_a_context_are_sorted_within_it(opened, site):
    page = opened(site / PAIR)
    groups = "(bodies) => bodies.map((body) => [...body.rows].slice(1).map((row) => row.cells[0].innerText))"
    heads = "(bodies) => bodies.map((body) => body.rows[0].className)"
    before = page.eval_on_selector_all("#rows-top1 tbody", groups)
    page.locator("#rows-top1 thead th button", has_text="Method").click()
    after = page.eval_on_selector_all("#rows-top1 tbody", groups)
    assert len(before) > 5
    assert after == [sorted(group) for group in before]
    assert set(page.eval_on_selector_all("#rows-top1 tbody", heads)) == {"group"}


def test_filters_join_and_hide_the_heads_of_empty_groups(opened, site):
    page = opened(site / PAIR)
    page.select_option("#filter-top1", "last")
    rows = page.eval_on_selector_all(
        "#rows-top1 tbody tr:not([hidden])", "(rows) => rows.map((r) => r.className || r.dataset.selection)"
    )
    assert set(rows) == {"group", "last"}
    page = opened(site / "literature.html")
    page.select_option("#top1-source", "crd_repdistiller")
    page.select_option("#top1-selection", "last")
    sources = column(page, "#rows-top1", 8)
    assert len(sources) > 5
    assert all(text.startswith("crd_repdistiller") for text in sources)
    shown = page.locator("#said").inner_text()
    assert shown.startswith(f"{len(sources)} of ")


def test_without_javascript_everything_is_there_and_no_control_is(opened, site):
    page = opened(site / PAIR, java_script_enabled=False)
    assert page.locator("#rows-top1 tbody tr").count() > 20
    assert page.locator(".controls").first.is_hidden()
    assert page.locator("th button").count() == 0


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
    for path in sorted(hostile_site.rglob("*.html"))[:40]:
        page = opened(path, viewport={"width": 375, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path.name
