"""A cohort that would land too late goes on with fewer students, and nobody's bits move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bench import Bench, same_bits, suite_text

from kdbench.jobs import cohort
from kdbench.jobs.worker import run
from kdbench.suites import Suite
from kdbench.train import landing
from kdbench.train.landing import LOOKS, Landing


class Clock:
    """Seconds that pass by themselves at each look."""

    def __init__(self, a_step: float) -> None:
        self.now, self.a_step = 0.0, a_step

    def __call__(self) -> float:
        return self.now


def looked(a_step: float, steps: int, students: int, within: float = 100.0) -> list[int]:
    """How many students are left after each step, where a step takes ``a_step`` seconds a student."""
    clock = Clock(a_step)
    watch = Landing(within, clock)
    live: list[Any] = list(range(students))
    found = []
    for step in range(steps):
        clock.now += a_step * len(live)
        off = watch.too_many(live, steps - step - 1)
        live = [member for member in live if member not in off]
        found.append(len(live))
    return found


def test_a_cohort_that_is_in_time_stays_whole() -> None:
    assert set(looked(0.1, 100, 8)) == {8}


def test_one_that_is_late_keeps_as_many_as_land_in_time() -> None:
    found = looked(0.25, 100, 8)  # 200 seconds for all of them
    assert found[-1] == 3
    clock = sum(0.25 * count for count in [8, *found[:-1]])
    assert clock <= 100.0


def test_the_first_stays_however_late_it_is() -> None:
    assert looked(10.0, 100, 8)[-1] == 1


def test_no_more_is_put_off_late() -> None:
    """What has been trained for long lands, if not in time."""
    clock = Clock(0.1)
    watch = Landing(100.0, clock)
    live: list[Any] = [1, 2]
    for _ in range(100):
        clock.now += 0.5
        assert not watch.too_many(live, 10)
    assert clock.now > 100 * LOOKS[-1]
    clock.now += 1000
    assert not watch.too_many(live, 1000)


def test_who_is_put_off_follows_with_equal_bits(
    bench: Bench, make_suite: Callable[[str], Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite(suite_text(["ce", "kd", "ttm", "dist"]))
    alone = bench.again("alone")
    whole = alone.train(alone.trials(suite))
    made: list[int] = []
    taken = cohort._train_some

    def counted(task: Any, waiting: Any, *rest: Any) -> Any:
        made.append(len(waiting))
        return taken(task, waiting, *rest)

    monkeypatch.setattr(cohort, "_train_some", counted)
    monkeypatch.setattr(landing, "LOOKS", (0.0,))
    for task in bench.tasks(bench.trials(suite)):
        run(replace(task, within=1e-6), bench.events.append)
    assert made == [1, 4, 3, 2], "the teacher, and who is left of the students each time; the last two are almost done"
    assert any("would land too late beside the others" in event.get("text", "") for event in bench.events)
    for label, record in bench.records().items():
        assert same_bits(record, whole[label])
