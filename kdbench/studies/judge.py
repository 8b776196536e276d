"""The verdicts of a study, from results. Nothing is typed in, and nothing is judged by half of its trials."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.canonical import canonical
from kdbench.stats import claims
from kdbench.stats.aggregate import NO_TEACHER, Cell, cells
from kdbench.stats.claims import Finding, Verdict, family_level
from kdbench.studies.measures import MEASURES, of_teacher
from kdbench.studies.plots import Line, Plot
from kdbench.studies.study import Claim, Study
from kdbench.suites import Suite

Record = Mapping[str, Any]
#: What stands between a row and its pair, where a claim names both.
ON = " on "
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Missing:
    """Trials that a claim needs and that no record has: a row of a pair, and the seeds."""

    suite: str
    pair: str
    label: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Judged:
    """A claim and what came out; ``missing`` where it cannot be judged yet. ``level``: of its interval.

    ``mixed``: the seeds at which rows of one pair were taught by different trainings of its teacher.
    """

    claim: Claim
    verdict: Verdict
    finding: Finding | None
    level: float
    missing: tuple[Missing, ...] = ()
    mixed: tuple[int, ...] = ()


#: The label of the teacher of a pair, which is no row: its scores stand on its students' records.
TEACHER = "teacher"
#: From a selection to a function from a record to whether its network is right on each test image, where known.
Right = Callable[[str], Callable[[Record], NDArray[np.bool_] | None]]


@dataclass(frozen=True)
class Drawn:
    """A plot and its values: for each line, those of each of its rows over pairs and seeds, where known."""

    plot: Plot
    lines: tuple[tuple[Line, tuple[Floats, ...]], ...]


@dataclass(frozen=True)
class Related:
    """What a claim of a correlation is judged by: ``label on pair`` and two numbers [n, 2] a training, for each row."""

    claim: Claim
    rows: tuple[tuple[str, Floats], ...]


def judge(
    study: Study, suites: Mapping[str, Suite], rows: Iterable[Record], right: Right | None = None
) -> list[Judged]:
    """Each claim of ``study`` by the results in ``rows``, as they are shown in ``suites``.

    ``right``: what is known of their predictions. The intervals of all claims hold together in 95 of 100 studies
    (Bonferroni).
    """
    tables = _tables(suites, rows, right)
    level = family_level(len(study.claims))
    return [_judged(claim, tables[claim.suite], level) for claim in study.claims]


def plotted(study: Study, suites: Mapping[str, Suite], rows: Iterable[Record]) -> list[Drawn]:
    """The plots of ``study`` that have a value by the results in ``rows``, as they are shown in ``suites``."""
    tables = _tables(suites, rows)
    found = []
    for plot in study.plots:
        read = tables[plot.suite].named
        lines = tuple((line, tuple(read(row, line.pair, plot.measure) for row in line.rows)) for line in plot.lines)
        if any(len(values) for _, line in lines for values in line):
            found.append(Drawn(plot, lines))
    return found


def related(study: Study, suites: Mapping[str, Suite], rows: Iterable[Record]) -> list[Related]:
    """The numbers behind each correlation of ``study`` that is judged by the results in ``rows``."""
    tables = _tables(suites, rows)
    found = []
    for claim in study.claims:
        table = tables[claim.suite]
        if claim.statistic == "rank-correlation" and not table.missing(claim):
            both = {
                ON.join((label, pair)): np.stack(
                    [table.at([(pair, label)], measure) for measure in (claim.other, claim.measure)], axis=1
                )
                for name in claim.rows
                for pair, label in table.places(name, claim.pair)
            }
            known = tuple((name, values[np.isfinite(values).all(axis=1)]) for name, values in both.items())
            if drawn := tuple((name, values) for name, values in known if len(values)):
                found.append(Related(claim, drawn))
    return found


def _tables(suites: Mapping[str, Suite], rows: Iterable[Record], right: Right | None = None) -> dict[str, _Table]:
    measured = [row for row in rows if row["evidence"] == "measured"]
    return {name: _Table(suite, measured, right) for name, suite in suites.items()}


def _judged(claim: Claim, table: _Table, level: float) -> Judged:
    missing = table.missing(claim)
    if missing:
        return Judged(claim, Verdict.INCOMPLETE, None, level, missing)
    finding = _finding(claim, table, level)
    return Judged(claim, claim.bounds.judge(finding), finding, level, mixed=table.mixed(claim))


def _finding(claim: Claim, table: _Table, level: float) -> Finding:
    """The estimate over all pairs it speaks of: their values are those of further seeds."""
    measure = MEASURES[claim.measure]
    if claim.statistic == "between-seeds":
        return claims.between(table.between(claim), level).within(*measure.span)
    if claim.statistic == "mean" and measure.images is not None:
        return table.of_teachers(claim, level).within(*measure.span)
    values = {name: table.values(claim, name, claim.measure) for name in claim.named}
    if claim.statistic == "mean":
        return claims.mean(values[claim.of], level).within(*measure.span)
    if claim.statistic == "difference":
        scores, of, versus = table.beside(claim)
        return claims.difference(scores, of, versus, level)
    if claim.statistic == "share":
        return claims.share(values[claim.of], values[claim.base], values[claim.top], level)
    scores = np.stack([values[name] for name in claim.rows])
    if claim.statistic == "slope":
        return claims.slope(claim.at, scores, level)
    other = np.stack([table.values(claim, name, claim.other) for name in claim.rows])
    return claims.rank_correlation(other.ravel(), scores.ravel(), level)


def _alone(suite: Suite, found: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
    """Students alone on each planned pair of their data and student, where there is one of a label.

    A suite may have no other rows, so that no record names its pair.
    """
    shown: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    named = {cell.pair for cell in found}
    for pair in suite.pairs:
        for cell in found if pair.name not in named else ():
            if cell.teacher == NO_TEACHER and (cell.dataset, cell.student) == (
                pair.dataset,
                pair.name.partition(":")[2],
            ):
                shown[pair.name, cell.label].append(cell)
    return {place: several[0] for place, several in shown.items() if len(several) == 1}


def _shown_otherwise(found: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
    """Students alone on each pair of their data and student, where there is one of a label: a suite that has rows of
    labels of their own plans for how long each is trained."""
    pairs: dict[str, set[str]] = defaultdict(set)
    for cell in found:
        if cell.teacher != NO_TEACHER:
            pairs[_kind(cell)].add(cell.pair)
    shown: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in found:
        for pair in pairs[_kind(cell)] if cell.teacher == NO_TEACHER else ():
            shown[pair, cell.label].append(cell)
    return {place: several[0] for place, several in shown.items() if len(several) == 1}


def _kind(cell: Cell) -> str:
    """The data and the student of a cell, written down."""
    identity = cell.records[0]["identity"]
    return canonical([identity.get(part) for part in ("data", "student")]).decode()


class _Table:
    """The results of one suite: by pair, label and seed."""

    def __init__(self, suite: Suite, rows: Sequence[Record], right: Right | None) -> None:
        self.suite = suite
        self.selection = suite.protocol.selection
        of = right(self.selection) if right else lambda row: None
        found = cells({**row, "right": of(row)} for row in rows if row["suite"] == suite.id)
        own = {(cell.pair, cell.label): cell for cell in found}
        self._cells = {**_alone(suite, found), **_shown_otherwise(found), **own}

    def places(self, name: str, common: str) -> list[tuple[str, str]]:
        """The pairs and the label that ``name`` stands for, where it names no pair on the ``common`` one, if any."""
        label, _, pair = name.partition(ON)
        pair = pair or common
        return [(each.name, label) for each in self.suite.pairs if pair in ("", each.name)]

    def values(self, claim: Claim, name: str, measure: str) -> Floats:
        """A number for each pair and seed of the suite, nan where there is none."""
        return self.at(self.places(name, claim.pair), measure)

    def named(self, name: str, pair: str, measure: str) -> Floats:
        """The known numbers of the row ``name`` on ``pair``, or on all."""
        values = self.at(self.places(name, pair), measure)
        return values[np.isfinite(values)]

    def beside(self, claim: Claim) -> tuple[Floats, int, int]:
        """The scores of all rows that have as many pairs and seeds as the two of ``claim``, and where those stand.

        The others say how much differences vary from seed to seed.
        """
        of, versus = self.places(claim.of, claim.pair), self.places(claim.versus, claim.pair)
        if ON in claim.of or ON in claim.versus or len(of) == 1:
            rows = [[place] for place in dict.fromkeys((*self._cells, *of, *versus))]
        else:
            labels = dict.fromkeys((*(label for _, label in self._cells), of[0][1], versus[0][1]))
            rows = [[(pair, label) for pair, _ in of] for label in labels]
        complete = self._apart([of, versus, *rows])
        scores = np.stack([self.at(row, claim.measure) for row in complete])
        return scores, complete.index(of), complete.index(versus)

    def _apart(self, rows: Sequence[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
        """Those of ``rows`` that are complete and no trials that were there before.

        A row without a teacher is shown on every pair, and does not differ from itself.
        """
        kept: dict[frozenset[Any], list[tuple[str, str]]] = {}
        for row in rows:
            if all(map(self._of, row)):
                kept.setdefault(frozenset(map(self._whose, row)), row)
        return list(kept.values())

    def _whose(self, place: tuple[str, str]) -> Any:
        """What two rows have in common that are the same trials; TEACHER is nobody else's."""
        (cell, *_) = self._of(place)
        return place if place[1] == TEACHER else frozenset(record["key"] for record in cell.records)

    def at(self, places: Sequence[tuple[str, str]], measure: str) -> Floats:
        """A number for each of ``places``, pairs and labels, and seed of the suite, nan where there is none."""
        return np.array([self._value(place, seed, measure) for place in places for seed in self.suite.seeds])

    def _value(self, place: tuple[str, str], seed: int, measure: str) -> float:
        read = MEASURES[of_teacher(measure) if place[1] == TEACHER else measure].read
        found = [read(record, self.selection) for record in self._records(place, seed)]
        return float(np.mean(found)) if found else math.nan

    def of_teachers(self, claim: Claim, level: float) -> Finding:
        """The mean over the different teachers that ``claim`` speaks of.

        One that taught every seed was measured once: what may differ are the images that it was measured on.
        """
        measure = MEASURES[claim.measure]
        places = self.places(claim.of, claim.pair)
        found = {}
        for record in (
            record for place in places for seed in self.suite.seeds for record in self._records(place, seed)
        ):
            value = measure.read(record, self.selection)
            if math.isfinite(value):
                found[canonical([record["identity"]["teacher"], record["teacher"]["weights_sha256"]])] = value, record
        if measure.images is not None and len(found) == 1:
            ((value, record),) = found.values()
            low, high = measure.span
            if images := measure.images(record):
                return claims.proportion((value - low) / (high - low), images, level).scaled(low, high)
        return claims.mean([value for value, _ in found.values()], level)

    def _records(self, place: tuple[str, str], seed: int) -> list[Record]:
        """The finished records of a row's seed; of TEACHER, those of its students."""
        return [record for cell in self._of(place) for record in cell.finished if record["seed"] == seed]

    def _of(self, place: tuple[str, str]) -> list[Cell]:
        """The cell of a row; of TEACHER, those of its students in the pair."""
        pair, label = place
        if label != TEACHER:
            return [self._cells[place]] if place in self._cells else []
        return [cell for (at, _), cell in self._cells.items() if at == pair and cell.records[0]["teacher"]]

    def between(self, claim: Claim) -> Floats:
        """What the networks of any two seeds say beside one another [seeds, seeds], nan where one is missing.

        Of several pairs the mean.
        """
        compare = MEASURES[claim.measure].between
        assert compare is not None  # as the claim was read
        tables = []
        for place in self.places(claim.of, claim.pair):
            of = [next(iter(self._records(place, seed)), None) for seed in self.suite.seeds]
            tables.append([[compare(a, b) if a and b else math.nan for b in of] for a in of])
        return np.mean(tables, axis=0)  # type: ignore[no-any-return]

    def mixed(self, claim: Claim) -> tuple[int, ...]:
        """The seeds at which rows of one pair that ``claim`` names had teachers of different weights."""
        taught: dict[tuple[str, int], set[frozenset[str]]] = defaultdict(set)
        for place in {place for name in claim.named for place in self.places(name, claim.pair) if place[1] != TEACHER}:
            for seed in self.suite.seeds:
                teachers = [record.get("teacher") for record in self._records(place, seed)]
                if weights := frozenset(teacher["weights_sha256"] for teacher in teachers if teacher):
                    taught[place[0], seed].add(weights)
        return tuple(sorted({seed for (_, seed), found in taught.items() if len(found) > 1}))

    def missing(self, claim: Claim) -> tuple[Missing, ...]:
        """What is needed and not there. A trial that diverged is there, and is missing among the values."""
        found: dict[Missing, None] = {}
        for name in claim.named:
            for pair, label in self.places(name, claim.pair):
                records = [record for cell in self._of((pair, label)) for record in cell.records]
                known = {r["seed"] for r in records if r["status"] in ("finished", "diverged")}
                seeds = tuple(seed for seed in self.suite.seeds if seed not in known)
                if seeds:
                    found[Missing(self.suite.id, pair, label, seeds)] = None
        return tuple(found)
