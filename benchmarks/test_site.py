"""The site on the results that come with kdbench, and on more rows and pairs than anybody has: CPU time and size."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.records.store import Store
from kdbench.render import build
from kdbench.shipped import shipped
from tests import render_records

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
