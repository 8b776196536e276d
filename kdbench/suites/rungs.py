"""How a suite's hyper-parameters are chosen, each method's from as many random configurations.

Successive halving (Jamieson and Talwalkar, AISTATS 2016, arXiv:1502.07943): every configuration is trained for a few
epochs, the best of each method for more, and so on, a *rung* each time. A rung is a suite like any other, so its
trials have records, resume and are shared; each starts anew, under a schedule that ends with it. What is best is told
by held-out images, never by the test set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdbench.methods import METHODS
from kdbench.methods.search import drawn
from kdbench.suites.suite import Row, Suite
from kdbench.suites.tuning import Tuning, tuned_label

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Rung:
    """The suite of a rung, and what each of its rows reached on held-out images, in percent, where that is recorded."""

    suite: Suite
    scores: Mapping[str, float]

    @property
    def complete(self) -> bool:
        return all(row.label in self.scores for row in self.suite.rows)


@dataclass(frozen=True)
class Course:
    """The rungs so far, the last of which may be under way, and the rows that were chosen when all are complete."""

    rungs: tuple[Rung, ...]
    chosen: tuple[Row, ...] = ()


def course(suite: Suite, tuning: Tuning, records: Iterable[Record]) -> Course:
    """How far the tuning of ``suite`` has come by ``records``, the measured results of its rungs.

    Where several machines have trained a trial, the first counts, so that no later one changes what was chosen.
    """
    ended = [record for record in records if record["status"] in ("finished", "diverged")]
    ended.sort(key=lambda record: str(record["provenance"]["created"]))
    rungs: list[Rung] = []
    rows = candidates(suite, tuning)
    for number, keep in enumerate((*tuning.keep, 1), 1):
        made = rung(suite, tuning, number, rows)
        scores = _scores(made, ended)
        rungs.append(Rung(made, scores))
        if not rungs[-1].complete:
            return Course(tuple(rungs))
        rows = best(rows, scores, keep)
    return Course(tuple(rungs), tuple(replace(row, label=tuned_label(row.method)) for row in rows))


def _scores(made: Suite, records: Sequence[Record]) -> dict[str, float]:
    """Row -> what it reached by the first of ``records`` that is of its trial."""
    (pair,) = made.pairs
    wanted = {row.label: METHODS.get(row.method).config(pair.name, row.config, made.id) for row in made.rows}
    protocol = pair.protocol.identity()
    found: dict[str, float] = {}
    for record in records:
        label, same = record["label"], record["suite"] == made.id and record["seed"] in made.seeds
        if same and record["config"] == wanted.get(label) and record["identity"]["protocol"] == protocol:
            found.setdefault(label, _held_out(record))
    return found


def candidates(suite: Suite, tuning: Tuning) -> tuple[Row, ...]:
    """Every configuration that is drawn, method by method."""
    where = f"{suite.id} [tune]"
    specs = [METHODS.resolve(name) for name in tuning.methods]
    return tuple(
        Row(f"{spec.name}-{number}", spec.name, {**fixed, **drawn(spec, tuning.seed, number, where)})
        for spec, fixed in specs
        for number in range(tuning.configs)
    )


def rung(suite: Suite, tuning: Tuning, number: int, rows: Sequence[Row]) -> Suite:
    """Rung ``number``, from 1, of ``suite`` as a suite of ``rows``."""
    epochs = tuning.epochs[number - 1]
    protocol = replace(suite.protocol, epochs=epochs)
    pairs = tuple(replace(pair, protocol=replace(pair.protocol, epochs=epochs)) for pair in suite.pairs)
    return replace(
        suite,
        name=f"{suite.name}-rung-{number}",
        title=f"{suite.title}: rung {number}",
        protocol=protocol,
        pairs=pairs,
        rows=tuple(rows),
        seeds=(tuning.seed,),
        notes=(),
        tuning=None,
        file="",
    )


def best(rows: Sequence[Row], scores: Mapping[str, float], keep: int) -> tuple[Row, ...]:
    """The ``keep`` rows of each method with the highest ``scores``, best first; of equals, those drawn first."""
    ranked = sorted(rows, key=lambda row: -scores[row.label])
    methods = dict.fromkeys(row.method for row in rows)
    return tuple(row for method in methods for row in [row for row in ranked if row.method == method][:keep])


def with_chosen(suite: Suite, chosen: Sequence[Row]) -> Suite:
    """``suite`` with the rows that were chosen."""
    return replace(suite, rows=(*suite.rows, *chosen))


def outlook(suite: Suite, tuning: Tuning, course: Course) -> list[Suite]:
    """The suites that are trained from here on, whichever rows will be in them: others of each method cost as much."""
    if course.chosen:
        return [with_chosen(suite, course.chosen)]
    last = course.rungs[-1]
    ahead, rows = [last.suite], last.suite.rows
    for number in range(len(course.rungs), len(tuning.epochs)):
        rows = best(rows, dict.fromkeys((row.label for row in rows), 0.0), tuning.keep[number - 1])
        ahead.append(rung(suite, tuning, number + 1, rows))
    rows = best(rows, dict.fromkeys((row.label for row in rows), 0.0), 1)
    return [*ahead, with_chosen(suite, [replace(row, label=tuned_label(row.method)) for row in rows])]


def _held_out(record: Record) -> float:
    """Accuracy on held-out images after the last epoch; what diverged is worse than anything."""
    last = record["scores"]["last"]
    return -math.inf if last is None or last["val_top1"] is None else float(last["val_top1"])
