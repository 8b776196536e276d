"""Two methods side by side wherever both were measured, and in every source that prints both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from kdbench.records.implementations import one_name
from kdbench.records.literature import Reported
from kdbench.records.reported import folded
from kdbench.render.catalogue import Catalogue, PairName
from kdbench.render.measured import Table
from kdbench.stats.aggregate import NO_TEACHER
from kdbench.stats.intervals import Interval
from kdbench.stats.versus import DISAGREE, Meeting, disagreement, meeting, pooled

#: Comparisons that have a page of their own; the rest are in the matrix of a suite's page.
MOST = 2000


@dataclass(frozen=True)
class Place:
    """A table in which both methods stand, and how. ``twice``: the same trials are in an earlier place."""

    table: Table
    found: Meeting
    twice: bool


@dataclass(frozen=True)
class Together:
    """Two numbers of one source that differ in nothing but the method, as far as it says."""

    pair: PairName
    one: Reported
    other: Reported

    @property
    def difference(self) -> float:
        return self.one.value - self.other.value


@dataclass(frozen=True)
class Versus:
    """``one`` against ``other``: measured differences are the first minus the second, over other seeds."""

    one: str
    other: str
    places: tuple[Place, ...]
    printed: tuple[Together, ...]
    #: What else one source prints of both for one pair, though not of one kind.
    beside: tuple[Together, ...] = ()

    @property
    def counted(self) -> list[Meeting]:
        return [place.found for place in self.places if not place.twice]

    @property
    def pooled(self) -> Interval | None:
        return pooled(self.counted)

    @property
    def disagree(self) -> bool:
        p = disagreement(self.counted)
        return p is not None and p < DISAGREE

    @property
    def better(self) -> str:
        """Which one is shown to be better: the mean leaves out zero, and so does a table with all that it compares held
        together. Empty where neither is."""
        over = self.pooled
        if over is None or over.low is None or over.high is None or not any(met.apart for met in self.counted):
            return ""
        return self.one if over.low > 0 else self.other if over.high < 0 else ""

    @property
    def ran(self) -> list[Together]:
        """The printed comparisons of which the source ran both."""
        return [t for t in self.printed if "quoted" not in (t.one.provenance, t.other.provenance)]

    def ahead(self, name: str) -> int:
        """In how many comparisons that a source ran ``name`` has the higher number."""
        sign = 1 if name == self.one else -1
        return sum(sign * together.difference > 0 for together in self.ran)

    @property
    def sources(self) -> list[str]:
        """Those that ran both."""
        return sorted({together.one.source for together in self.ran})


def all_versus(catalogue: Catalogue) -> dict[tuple[str, str], Versus]:
    """Every two methods that share a pair, measured or printed: at most MOST, those that share most first.

    Names are in alphabetical order.
    """
    tables = [table for _, table in sorted(catalogue.tables.items(), key=lambda item: (item[0][1:], item[0][0]))]
    rows = [_rows(table) for table in tables]
    printed = _printed(catalogue)
    beside = _beside(catalogue, printed)
    found: dict[tuple[str, str], Versus] = {}
    for two in _most_shared(rows, {two: len(together) for two, together in printed.items()}):
        both = [(table, row) for table, row in zip(tables, rows, strict=True) if two[0] in row and two[1] in row]
        places = tuple(_places(catalogue, two, both))
        if places or two in printed:
            found[two] = Versus(*two, places, tuple(printed.get(two, ())), tuple(beside.get(two, ())))
        if len(found) == MOST:
            break
    return found


def _most_shared(rows: Sequence[Collection[str]], printed: Mapping[tuple[str, str], int]) -> Iterator[tuple[str, str]]:
    """Every two names that share one of ``rows`` or are ``printed`` together, those first that most do.

    Counted as a product of matrices: of many rows, pairs are too many to count one by one.
    """
    names = sorted({*chain(*rows), *chain(*printed)})
    at = {name: place for place, name in enumerate(names)}
    present = np.zeros((len(rows), len(names)), np.float32)
    for number, row in enumerate(rows):
        present[number, [at[name] for name in row]] = 1
    shared, said = present.T @ present, np.zeros((len(names), len(names)))
    for (one, other), times in printed.items():
        said[at[one], at[other]] = times
    ones, others = np.nonzero(np.triu((shared > 0) | (said > 0), 1))  # in alphabetical order
    for place in np.lexsort((-said[ones, others], -shared[ones, others])):
        yield names[ones[place]], names[others[place]]


def _rows(table: Table) -> dict[str, frozenset[str]]:
    """The trials of each measured row of ``table`` that is a method as it comes, by the method's name."""
    return {
        line.cell.method: frozenset(record["key"] for record in line.cell.records)
        for line in table.lines
        if line.cell.label == line.cell.method and line.kind == "measured"
    }


def _places(
    catalogue: Catalogue, two: tuple[str, str], both: Iterable[tuple[Table, Mapping[str, frozenset[str]]]]
) -> Iterator[Place]:
    seen: set[frozenset[str]] = set()
    for table, rows in both:
        if (met := meeting(catalogue.standings_of(table), *two)) is not None:
            trials = rows[two[0]] | rows[two[1]]
            yield Place(table, met, trials in seen)
            seen.add(trials)


def _printed(catalogue: Catalogue) -> dict[tuple[str, str], list[Together]]:
    """What one source prints of two methods for one pair under one recipe, teacher, student alone and selection.

    A quote of what another source prints is that source's; what a source calls not comparable is left out.
    """
    groups: dict[tuple[object, ...], dict[str, Reported]] = defaultdict(dict)
    for row in (number.row for number in folded(catalogue.literature.rows)):
        if row.metric == "top1" and not row.apart:
            context = (row.source, row.recipe, row.selection, row.teacher_value, row.student_baseline)
            groups[row.dataset, row.teacher, row.student, *context].setdefault(one_name(row.method), row)
    found: dict[tuple[str, str], list[Together]] = defaultdict(list)
    for group in groups.values():
        for two in combinations(sorted(group), 2):
            one, other = (group[name] for name in two)
            found[two].append(Together((one.dataset, one.teacher, one.student), one, other))
    for places in found.values():
        places.sort(key=lambda together: (together.pair, together.one.source, together.one.selection))
    return found


def _beside(
    catalogue: Catalogue, printed: Mapping[tuple[str, str], Sequence[Together]]
) -> dict[tuple[str, str], list[Together]]:
    """What one source prints of two methods for one pair, where it has no comparison of them there that is ``printed``.

    They differ in recipe, teacher, student alone or selection, or one is a quote that stands with its original.
    """
    groups: dict[tuple[PairName, str], dict[str, Reported]] = defaultdict(dict)
    for row in catalogue.literature.rows:
        if row.metric == "top1" and not row.apart and row.teacher != NO_TEACHER:
            groups[(row.dataset, row.teacher, row.student), row.source].setdefault(one_name(row.method), row)
    compared = {(two, t.pair, source) for two, found in printed.items() for t in found for source in _both(t)}
    found: dict[tuple[str, str], list[Together]] = defaultdict(list)
    for (pair, source), group in sorted(groups.items(), key=lambda item: item[0]):
        for two in combinations(sorted(group), 2):
            if (two, pair, source) not in compared:
                found[two].append(Together(pair, *(group[name] for name in two)))
    return found


def _both(together: Together) -> set[str]:
    return {together.one.source, together.other.source}


@dataclass(frozen=True)
class Duel:
    """A cell of a matrix: the row minus the column. ``sign``: + or - where they are shown to differ, else empty."""

    difference: Interval
    sign: str
    page: tuple[str, str] | None


def matrix(
    catalogue: Catalogue, tables: Iterable[Table], pages: Mapping[tuple[str, str], Versus], labels: list[str]
) -> list[tuple[str, list[Duel | None]]]:
    """Each of ``labels`` against each other over ``tables``, which are one suite's; None on the diagonal."""
    found = catalogue.standings_over(tuple(tables))
    methods = {line.cell.label: line.cell.method for table in tables for line in table.lines}
    rows: list[tuple[str, list[Duel | None]]] = []
    for one in labels:
        duels: list[Duel | None] = []
        for other in labels:
            met = meeting(found, one, other)
            two = (min(one, other), max(one, other))
            own = methods.get(one) == one and methods.get(other) == other and two in pages
            sign = "" if met is None or not met.apart else "+" if met.difference.mean > 0 else "\u2212"
            duels.append(None if met is None else Duel(met.difference, sign, two if own else None))
        rows.append((one, duels))
    return rows
