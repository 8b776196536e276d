"""Comparisons in interleaved rounds, and where their figures go."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

#: What is printed under the table of pytest-benchmark.
LINES = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class Ratio:
    """CPU seconds over the baseline's of the same round: the median and the quartiles of all rounds."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Report:
    """Figures of one benchmark: in its ``extra_info`` (``--benchmark-json``), and printed at the end."""

    benchmark: BenchmarkFixture
    config: pytest.Config

    def add(self, name: str, figure: object, text: str) -> None:
        self.benchmark.extra_info[name] = figure
        self.config.stash[LINES].append(f"{self.benchmark.name}: {name} {text}")

    def ratios(self, tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Ratio]:
        """Time ``tasks`` in rounds, each once a round and in random order; the first is the baseline.

        Times are this process's on the CPU: other processes' turns do not count, and what slows the machine for longer
        than a round slows all of it, and cancels.
        """
        baseline, *others = tasks
        seconds: dict[str, list[float]] = {name: [] for name in tasks}
        order, shuffle = list(tasks), random.Random(0).shuffle

        def each() -> None:
            shuffle(order)
            for name in order:
                started = time.process_time()
                tasks[name]()
                seconds[name].append(time.process_time() - started)

        each()
        for times in seconds.values():
            times.clear()
        self.benchmark.pedantic(each, rounds=max(2, self.config.getoption("rounds", None) or rounds))
        found = {}
        for name in others:
            ratios = [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]
            found[name] = ratio = Ratio(*statistics.quantiles(ratios, n=4))
            text = f"{ratio.median:.3f} x {baseline} ({ratio.low:.3f} to {ratio.high:.3f})"
            self.add(name, [ratio.low, ratio.median, ratio.high], text)
        return found
