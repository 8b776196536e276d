"""Comparisons in interleaved rounds, and where their figures go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rounds import FEWEST, Ratio, Rounds

#: What is printed under the table of pytest-benchmark.
LINES = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class Report:
    """Figures of one benchmark: in its ``extra_info`` (``--benchmark-json``), and printed at the end."""

    benchmark: BenchmarkFixture
    config: pytest.Config

    def add(self, name: str, figure: object, text: str) -> None:
        self.benchmark.extra_info[name] = figure
        self.config.stash[LINES].append(f"{self.benchmark.name}: {name} {text}")

    def seconds(
        self,
        tasks: Mapping[str, Callable[[], object]],
        rounds: int,
        budget: float = math.inf,
        clock: Callable[[], float] = time.process_time,
        fewest: int = FEWEST,
    ) -> dict[str, list[float]]:
        """Time ``tasks`` in rounds, each once a round and in random order, after one that does not count.

        Times are this process's on the CPU: other processes' turns do not count, and what slows the machine for longer
        than a round slows all of it, and cancels in a Ratio. Where a task uses several cores it takes another
        ``clock``. ``budget``: seconds in which the rounds should be over, unless those are fewer than the ``fewest``.
        """
        timed = Rounds(tasks, clock)
        fitting = timed.fitting(rounds, budget, fewest)
        asked = self.config.getoption("rounds", None)
        self.benchmark.pedantic(timed.turn, rounds=max(FEWEST, asked) if asked else fitting)
        return timed.seconds

    def ratios(self, tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Ratio]:
        """The time of each of ``tasks`` over that of the first."""
        baseline, *others = tasks
        seconds = self.seconds(tasks, rounds)
        found = {name: Ratio.of(seconds[name], seconds[baseline]) for name in others}
        for name, ratio in found.items():
            text = f"{ratio.median:.3f} x {baseline} ({ratio.low:.3f} to {ratio.high:.3f})"
            self.add(name, ratio.quartiles, text)
        return found
