"""The site on the results that come with kdbench, and on more rows and pairs than anybody has: CPU time and size."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.records.store import Store
from kdbench.render import build, charts, places
from kdbench.render.catalogue import Catalogue
from kdbench.render.rows import row_pages
from kdbench.render.site import gather
from kdbench.render.suiteview import SuiteView, suite_view
from kdbench.render.svg import figure
from kdbench.shipped import shipped
from tests import render_records

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Milliseconds from the wish for the page.
_TIMES = """({
  "something is seen": performance.getEntriesByName("first-contentful-paint")[0].startTime,
  "the scripts have run": performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd,
})"""
#: A page of a suite that is larger takes a browser more than a moment.
LARGEST_PAGE = 1_500_000


def test_site(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    report = benchmark.pedantic(lambda: build(shipped("results"), tmp_path / "site"), rounds=3, warmup_rounds=1)
    assert report.pages > 100


@pytest.fixture(scope="module", params=[(100, 6), pytest.param((500, 13), marks=pytest.mark.slow)], ids=str)
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of so many rows on so many pairs, with a seed and 100 test images each."""
    rows, pairs = request.param
    root = tmp_path_factory.mktemp("wide")
    store = Store(root / "results")
    for pair in range(pairs):
        render_records.put(store, 0.5, "ce", f"none:net{pair}", suite="wide@1", images=100)
        for row in range(rows):
            accuracy, method = 0.5 + 0.001 * (row % 50), f"m{row:03d}"
            render_records.put(store, accuracy, method, f"big:net{pair}", suite="wide@1", images=100)
    return root


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_site_of_many(benchmark: BenchmarkFixture, wide: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``cold``: no record was seen and no prediction scored before; ``warm``: all were."""
    monkeypatch.setenv("KDBENCH_CACHE", str(wide / "cache"))
    assert (wide / "cache").exists() == (cache == "warm")
    benchmark.pedantic(lambda: build(wide / "results", wide / "site"), rounds=1)
    page = wide / "site" / "suites" / "wide@1.html"
    benchmark.extra_info["suite page, bytes"] = page.stat().st_size
    assert page.stat().st_size < LARGEST_PAGE


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_page_in_a_browser(benchmark: BenchmarkFixture, wide: Path) -> None:
    """From the wish for the suite's page until it has been drawn with all that its scripts add.

    Beside it the seconds until something was seen, and until the scripts had run, after which it answers.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    page = wide / "site" / "suites" / "wide@1.html"
    if not page.exists():
        build(wide / "results", wide / "site")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        seen: list[dict[str, float]] = []
        benchmark.pedantic(lambda: seen.append(_show(browser, page.as_uri())), rounds=7, warmup_rounds=1)
        browser.close()
    for name in seen[0]:
        benchmark.extra_info[f"seconds until {name}"] = sorted(each[name] for each in seen)[len(seen) // 2]


def _show(browser: Any, url: str) -> dict[str, float]:
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.goto(url)
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    times: dict[str, float] = tab.evaluate(_TIMES)
    tab.close()
    return {name: time / 1000 for name, time in times.items()}


def test_plots(benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What share of a site's time its plots take where each of 1,000 trainings has 240 epochs; the site is warm."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(render_records.PROTOCOL, "epochs", 240)
    store = Store(tmp_path / "results")
    for seed in range(10):
        render_records.put(store, 0.5, "ce", "none:net", seed, suite="wide@1", images=1000)
        for row in range(99):
            accuracy = 0.5 + 0.001 * (row % 50)
            render_records.put(store, accuracy, f"m{row:03d}", "big:net", seed, suite="wide@1", images=1000)
    build(store.root, tmp_path / "site")
    begun = time.process_time()
    build(store.root, tmp_path / "site")
    whole = time.process_time() - begun
    catalogue = gather(store)
    view = suite_view(catalogue, "wide@1")
    drawing = benchmark.pedantic(lambda: _draw(catalogue, view), rounds=3)
    benchmark.extra_info.update({"plots": drawing[0], "seconds of the site": whole, "share": drawing[1] / whole})


def _draw(catalogue: Catalogue, view: SuiteView) -> tuple[int, float]:
    """How many plots the suite and its rows have, and the CPU time that they take."""
    begun = time.process_time()
    plots = [charts.forest(view), charts.costs(view), *places.both(view)]
    for page in row_pages(catalogue, view.name, view.tables):
        plots += [plot for section in page.sections for plot in section.plots]
    for plot in plots:
        figure(plot, "plot")
    return len(plots), time.process_time() - begun
