"""Interleaved rounds, and what is made of their times."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")

#: Fewer say nothing of the spread.
FEWEST = 3


@dataclass(frozen=True)
class Ratio:
    """A figure over another one of the same round: the median and the quartiles of all rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float], others: Sequence[float]) -> Ratio:
        return cls(*statistics.quantiles([a / b for a, b in zip(figures, others, strict=True)], n=4))

    @property
    def quartiles(self) -> list[float]:
        return [self.low, self.median, self.high]

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


class Rounds(Generic[K]):
    """Times ``tasks`` in rounds, each once a round and in random order, after one that does not count."""

    def __init__(self, tasks: Mapping[K, Callable[[], object]], clock: Callable[[], float]) -> None:
        self.tasks, self.clock = tasks, clock
        self.seconds: dict[K, list[float]] = {name: [] for name in tasks}
        self._order, self._shuffle = list(tasks), random.Random(0).shuffle

    def fitting(self, rounds: int, budget: float = math.inf, fewest: int = FEWEST) -> int:
        """Of ``rounds``, how many fit into ``budget`` seconds, as a first one says; the ``fewest`` at least."""
        started = time.monotonic()
        self.turn()
        fitting = budget / (time.monotonic() - started)
        for times in self.seconds.values():
            times.clear()
        return max(fewest, int(min(rounds, fitting)))

    def turn(self) -> None:
        """One round."""
        self._shuffle(self._order)
        for name in self._order:
            started = self.clock()
            self.tasks[name]()
            self.seconds[name].append(self.clock() - started)
