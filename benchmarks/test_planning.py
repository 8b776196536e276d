"""How long a plan takes, from the suite's text to the tasks, for more rows and seeds than anybody has."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.plan.expand import Selection
from kdbench.plan.fleet import cpu
from kdbench.plan.plan import Plan, Request, make_plan
from kdbench.records import Store
from kdbench.suites import SUITES, Suite, parse_suite


def wide(rows: int) -> str:
    """The suite digits with so many rows of kd beside its own."""
    text, _ = SUITES.get("digits")
    return text + "".join(
        f'\n[[methods]]\nname = "kd"\nlabel = "row-{number}"\nconfig = {{ kd_weight = {(number + 0.5) / rows} }}\n'
        for number in range(rows)
    )


def plan(suite: Suite, folder: Path, **selection: int | tuple[str, ...]) -> Plan:
    request = Request((suite,), Selection(**selection), folder / "data", dry=True)  # type: ignore[arg-type]
    return make_plan(request, Store(folder / "results"), cpu(2))


@pytest.mark.parametrize("rows", [2500, 10_000])
def test_rows(benchmark: BenchmarkFixture, tmp_path: Path, rows: int) -> None:
    text = wide(rows)
    made = benchmark.pedantic(lambda: plan(parse_suite(text, "wide.toml"), tmp_path, seeds=1), rounds=3)
    assert len(made.trials) > rows


@pytest.mark.parametrize("seeds", [15_000, 60_000])
def test_seeds(benchmark: BenchmarkFixture, tmp_path: Path, seeds: int) -> None:
    suite = parse_suite(*SUITES.get("digits"))
    made = benchmark.pedantic(lambda: plan(suite, tmp_path, seeds=seeds, methods=("kd",)), rounds=3)
    assert len(made.trials) == seeds
