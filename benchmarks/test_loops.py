"""Images a second of kdbench and of the loop that people fork, on one thread each, and of the convolutions alone.

A trial is kd; the suite is eight methods under one teacher, on whose batches every image counts eight times, once for
each student. Nothing is compiled.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from convolutions import recorded, replay
from engine import SUITE, Engine
from pairs import PAIRS, Pair
from peer import Peer
from report import Ratio, Report

ROUNDS = 30
#: Seconds for the rounds of one pair, unless that is not enough for the fewest.
SECONDS = 150.0
#: Of the speed of its convolutions alone, what kdbench reaches.
LIMIT = 0.85
#: Number of students to their methods.
METHODS = {1: SUITE[:1], len(SUITE): SUITE}
ROWS = list(product(METHODS, (False, True)))


def _tasks(pair: Pair, folder: Path) -> dict[object, Callable[[], object]]:
    """The peers' step; by row, kdbench's step; and the convolutions of the teacher, by ``fold``, and of a student."""
    dataset = pair.dataset(folder)
    engine = Engine(pair, dataset)
    cohorts = {(students, fold): engine.cohort(METHODS[students], fold) for students, fold in ROWS}
    tasks: dict[object, Callable[[], object]] = {"peer": Peer(pair, dataset).step}
    tasks |= {row: partial(engine.step, cohort) for row, cohort in cohorts.items()}
    tasks |= {fold: replay(recorded(partial(engine.share, cohorts[1, fold]))) for fold in (False, True)}
    alone = cohorts[1, False]
    tasks["student"] = replay(recorded(partial(alone.members[0].step, *engine.share(alone))))
    return tasks


@pytest.mark.parametrize("name", PAIRS)
def test_loops(report: Report, name: str, tmp_path: Path) -> None:
    pair = PAIRS[name]
    seconds = report.seconds(_tasks(pair, tmp_path), ROUNDS, SECONDS)
    shares = []
    for students, fold in ROWS:
        ours, images = seconds[students, fold], students * pair.batch
        bound = [t + students * s for t, s in zip(seconds[fold], seconds["student"], strict=True)]
        ratio = Ratio.of([students * s for s in seconds["peer"]], ours)
        shares.append(Ratio.of(bound, ours))
        figures = {
            "students": students,
            "fold": fold,
            "batch": pair.batch,
            "peer": pair.batch / statistics.median(seconds["peer"]),
            "kdbench": images / statistics.median(ours),
            "bound": images / statistics.median(bound),
            "ratio": ratio.quartiles,
            "share": shares[-1].quartiles,
        }
        text = f"{ratio} x the peers' loop, {shares[-1]} x its convolutions alone"
        report.add(f"{students} students{' (fold)' * fold}", figures, text)
    assert not [row for row, share in zip(ROWS, shares, strict=True) if share.median < LIMIT]
