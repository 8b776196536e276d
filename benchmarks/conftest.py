"""The benchmarks' option, their fixture, their machine, and their figures under the table of pytest-benchmark."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from report import LINES, Report

from kdbench.train.device import numerics


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, help="rounds of each comparison, instead of the number it asks for")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["kdbench"] = {**numerics(torch.device("cpu")), "cores": os.cpu_count()}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash[LINES]:
        terminalreporter.section("ratios and peaks")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def report(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Report:
    return Report(benchmark, pytestconfig)
