"""The verdicts of a study, from results. Nothing is typed in, and nothing is judged by half of its trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.stats import claims
from kdbench.stats.aggregate import Cell, cells
from kdbench.stats.claims import Finding, Verdict, family_level
from kdbench.studies.measures import MEASURES
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
    """A claim and what came out; ``missing`` where it cannot be judged yet. ``level``: of its interval."""

    claim: Claim
    verdict: Verdict
    finding: Finding | None
    level: float
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """A plot and its values: for each line, those of each of its rows over pairs and seeds, where known."""

    plot: Plot
    lines: tuple[tuple[Line, tuple[Floats, ...]], ...]


def judge(study: Study, suites: Mapping[str, Suite], rows: Iterable[Record]) -> list[Judged]:
    """Each claim of ``study`` by the results in ``rows``, as they are shown in ``suites``.

    The intervals of all claims hold together in 95 of 100 studies (Bonferroni).
    """
    tables = _tables(suites, rows)
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


def _tables(suites: Mapping[str, Suite], rows: Iterable[Record]) -> dict[str, _Table]:
    measured = [row for row in rows if row["evidence"] == "measured"]
    return {name: _Table(suite, measured) for name, suite in suites.items()}


def _judged(claim: Claim, table: _Table, level: float) -> Judged:
    missing = table.missing(claim)
    if missing:
        return Judged(claim, Verdict.INCOMPLETE, None, level, missing)
    finding = _finding(claim, table, level)
    return Judged(claim, claim.bounds.judge(finding), finding, level)


def _finding(claim: Claim, table: _Table, level: float) -> Finding:
    """The estimate over all pairs it speaks of: their values are those of further seeds."""
    values = {name: table.values(claim, name, claim.measure) for name in claim.named}
    if claim.statistic == "mean":
        return claims.mean(values[claim.of], level)
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


class _Table:
    """The results of one suite: by pair, label and seed."""

    def __init__(self, suite: Suite, rows: Sequence[Record]) -> None:
        self.suite = suite
        self.selection = suite.protocol.selection
        found = cells(row for row in rows if row["suite"] == suite.id)
        self._cells: dict[tuple[str, str], Cell] = {(cell.pair, cell.label): cell for cell in found}

    def places(self, name: str, common: str) -> list[tuple[str, str]]:
        """The pairs and the label that ``name`` stands for, where it names no pair on the ``common`` one, if any."""
        label, _, pair = name.partition(ON)
        pair = pair or common
        return [(each.name, label) for each in self.suite.pairs if pair in ("", each.name)]

    def values(self, claim: Claim, name: str, measure: str) -> Floats:
        """A number for each pair and seed of the suite, nan where there is none."""
        return self._values(self.places(name, claim.pair), measure)

    def named(self, name: str, pair: str, measure: str) -> Floats:
        """The known numbers of the row ``name`` on ``pair``, or on all."""
        values = self._values(self.places(name, pair), measure)
        return values[np.isfinite(values)]

    def beside(self, claim: Claim) -> tuple[Floats, int, int]:
        """The scores of all rows that have as many pairs and seeds as the two of ``claim``, and where those stand.

        The others say how much differences vary from seed to seed.
        """
        of, versus = self.places(claim.of, claim.pair), self.places(claim.versus, claim.pair)
        if ON in claim.of or ON in claim.versus or len(of) == 1:
            rows = [[place] for place in self._cells]
        else:
            labels = dict.fromkeys(label for _, label in self._cells)
            rows = [[(pair, label) for pair, _ in of] for label in labels]
        complete = [row for row in rows if all(place in self._cells for place in row)]
        scores = np.stack([self._values(row, claim.measure) for row in complete])
        return scores, complete.index(of), complete.index(versus)

    def _values(self, places: Sequence[tuple[str, str]], measure: str) -> Floats:
        read = MEASURES[measure].read
        return np.array([self._value(place, seed, read) for place in places for seed in self.suite.seeds])

    def _value(self, place: tuple[str, str], seed: int, read: Callable[[Record, str], float]) -> float:
        cell = self._cells.get(place)
        found = [read(r, self.selection) for r in cell.finished if r["seed"] == seed] if cell else []
        return float(np.mean(found)) if found else math.nan

    def missing(self, claim: Claim) -> tuple[Missing, ...]:
        """What is needed and not there. A trial that diverged is there, and is missing among the values."""
        found: dict[Missing, None] = {}
        for name in claim.named:
            for pair, label in self.places(name, claim.pair):
                cell = self._cells.get((pair, label))
                known = {r["seed"] for r in cell.records if r["status"] in ("finished", "diverged")} if cell else set()
                seeds = tuple(seed for seed in self.suite.seeds if seed not in known)
                if seeds:
                    found[Missing(self.suite.id, pair, label, seeds)] = None
        return tuple(found)
