"""What more cores than one do for a cohort: its students stepped side by side, against threads inside each operation.

The first give the bits of one core, the second others, which is why the number of threads is part of a protocol and
that of cores is not. Times are by the clock on the wall: the machine should do nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from engine import SUITE, Engine
from pairs import PAIRS
from report import Report
from rounds import Ratio

from kdbench.train.lockstep import Lockstep

ROUNDS = 12
#: Number of students to the steps that are timed at once, which the cores begin and end together.
STEPS = {1: 4, len(SUITE): 2}
#: Seconds for the rounds of one comparison, unless that is not enough for the fewest.
SECONDS = 60.0
CORES = os.cpu_count() or 1


def _steps(engine: Engine, cohort: Lockstep, threads: int) -> None:
    torch.set_num_threads(threads)
    for _ in range(STEPS[len(cohort.members)]):
        engine.step(cohort)
    engine.finish(cohort)


@pytest.mark.skipif(CORES < 2, reason="this machine has one core")
@pytest.mark.parametrize("students", STEPS)
@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if not pair.in_files])
def test_cores(report: Report, name: str, students: int, tmp_path: Path) -> None:
    engine = Engine(PAIRS[name], PAIRS[name].dataset(tmp_path))
    alone, beside, inside = (engine.cohort(SUITE[:students], fold=True, cores=cores) for cores in (1, CORES, 1))
    tasks: dict[str, Callable[[], object]] = {
        "alone": partial(_steps, engine, alone, 1),
        "side by side": partial(_steps, engine, beside, 1),
        "threads inside": partial(_steps, engine, inside, CORES),
    }
    try:
        seconds = report.seconds(tasks, ROUNDS, SECONDS, time.perf_counter)
    finally:
        beside.crew.close()
        torch.set_num_threads(1)
    for way in ("side by side", "threads inside"):
        ratio = Ratio.of(seconds["alone"], seconds[way])
        figures = {"students": students, "cores": CORES, "ratio": ratio.quartiles}
        report.add(way, figures, f"{ratio} x the speed of one core, {students} students")
