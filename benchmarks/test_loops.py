"""Images a second of kdbench and of the loop that people fork, on one thread each, and of the convolutions alone.

A trial is kd; the suite is eight methods under one teacher, on whose batches every image counts eight times, once for
each student. What compiling takes, before and in the first step, is measured apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from convolutions import recorded, replay
from engine import SUITE, Engine
from pairs import PAIRS, Pair
from peer import Peer
from report import Report
from rounds import Ratio

from kdbench.models.precision import native

ROUNDS = 30
#: Seconds for the rounds of one pair, unless that is not enough for the fewest.
SECONDS = 300.0
FEWEST = 5
#: Of the speed of its convolutions alone, what kdbench reaches.
LIMIT = 0.85
#: Number of students to their methods.
METHODS = {1: SUITE[:1], len(SUITE): SUITE}


class Row(NamedTuple):
    """Number of students, and the fields of the protocol that say how the networks run."""

    students: int
    fold: bool
    compile: str
    precision: str

    def __str__(self) -> str:
        how = ("fold" * self.fold, self.compile * (self.compile != "none"), "bf16" * (self.precision == "bf16"))
        return f"{self.students} students" + "".join(f" ({word})" for word in how if word)


HOW = [
    (False, "none", "float32"),
    *((True, mode, "float32") for mode in ("none", "norms", "default")),
    (True, "none", "bf16"),
]
#: Where there are instructions for bfloat16. Computed by those for float32 it says nothing of a compiler.
COMPILED = [(True, mode, "bf16") for mode in ("norms", "default")]
NATIVE = native(torch.device("cpu"))
ROWS = [Row(n, *how) for n, how in product(METHODS, HOW + COMPILED * NATIVE)]


def _tasks(pair: Pair, folder: Path) -> tuple[dict[object, Callable[[], object]], dict[Row, float]]:
    """The peers' step; by row, kdbench's step; and the convolutions of a teacher and of a student, as rows have them.

    With the seconds of each row's first step, by the clock on the wall: a network that is compiled is compiled in it.
    """
    dataset = pair.dataset(folder)
    engine = Engine(pair, dataset)
    cohorts = {row: engine.cohort(METHODS[row.students], *row[1:]) for row in ROWS}
    tasks: dict[object, Callable[[], object]] = {"peer": Peer(pair, dataset).step}
    tasks |= {row: partial(engine.step, cohort) for row, cohort in cohorts.items()}
    first = {}
    for row in ROWS:
        started = time.perf_counter()
        tasks[row]()
        first[row] = time.perf_counter() - started
    for row, cohort in cohorts.items():
        if row.students == 1 and row.compile == "none":  # the other modes run the same ones
            tasks["teacher", row.fold, row.precision] = replay(recorded(partial(engine.share, cohort)))
            step = partial(cohort.members[0].step, *engine.share(cohort))
            tasks.setdefault(("student", row.precision), replay(recorded(step)))
    return tasks, first


@pytest.mark.parametrize("name", PAIRS)
def test_loops(report: Report, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, images = tmp_path / "compiled", tmp_path / "images"
    images.mkdir()
    # Where torch keeps compiled code: empty, or an earlier run's would be found there.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    pair = PAIRS[name]
    tasks, first = _tasks(pair, images)
    seconds = report.seconds(tasks, ROUNDS, SECONDS, fewest=FEWEST)
    shares = []
    for row in ROWS:
        students, ours = row.students, seconds[row]
        images = students * pair.batch
        bounds = seconds["teacher", row.fold, row.precision], seconds["student", row.precision]
        bound = [t + students * s for t, s in zip(*bounds, strict=True)]
        ratio = Ratio.of([students * s for s in seconds["peer"]], ours)
        shares.append(Ratio.of(bound, ours))
        figures = {
            "students": students,
            "fold": row.fold,
            "compile": row.compile,
            "precision": row.precision,
            "first": first[row],
            "batch": pair.batch,
            "rounds": len(ours),
            "peer": pair.batch / statistics.median(seconds["peer"]),
            "kdbench": images / statistics.median(ours),
            "bound": images / statistics.median(bound),
            "ratio": ratio.quartiles,
            "share": shares[-1].quartiles,
        }
        text = f"{ratio} x the peers' loop, {shares[-1]} x its convolutions alone"
        report.add(str(row), figures, text)
    fastest = [(row, share) for row, share in zip(ROWS, shares, strict=True) if row.compile == "norms"]
    assert not [row for row, share in fastest if share.median < LIMIT]
