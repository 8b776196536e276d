"""Printed gains on one pair: over whose student alone they count, and what each method's first report was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from kdbench.records.literature import Reported, Source
from kdbench.records.reported import gain

#: Points of top-1 below the usual student alone of a pair: gains over one as weak are no evidence beside others.
WEAK = 1.5
#: What the student alone is printed as.
ALONE = ("ce", "student", "baseline")


def weak_sources(rows: Iterable[Reported]) -> tuple[str, ...]:
    """The sources whose student alone is more than WEAK points below the usual one: whatever they add gains much."""
    alone = {(row.source, row.student_baseline) for row in rows if row.metric == "top1" and row.student_baseline}
    usual = median([value for _, value in alone]) if alone else 0.0
    return tuple(sorted({source for source, value in alone if value < usual - WEAK}))


@dataclass(frozen=True)
class First:
    """A method's first report: the ``year`` of the sources that ran it first, and the middle of their gains."""

    method: str
    year: int
    gain: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """The first reports on a pair by year, the best of each year last; ``weak`` sources are left out.

    ``records``: the best of a year, where it gains more than all of earlier years.
    """

    dataset: str
    teacher: str
    student: str
    sources: int
    firsts: tuple[First, ...]
    records: tuple[First, ...]
    weak: tuple[str, ...]


def histories(rows: Iterable[Reported], sources: Mapping[str, Source], most: int = 3) -> list[History]:
    """The histories of at most ``most`` pairs, those that the most sources ran first; a single year is no history."""
    pairs: dict[tuple[str, str, str], list[Reported]] = defaultdict(list)
    for row in rows:
        if row.metric == "top1" and row.provenance == "ran" and sources[row.source].year is not None:
            pairs[row.dataset, row.teacher, row.student].append(row)
    found = [history for pair, printed in sorted(pairs.items()) if (history := _history(pair, printed, sources))]
    return sorted(found, key=lambda history: -history.sources)[:most]


def _history(pair: tuple[str, str, str], rows: Sequence[Reported], sources: Mapping[str, Source]) -> History | None:
    weak = weak_sources(rows)
    printed: dict[str, dict[int, list[Reported]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        year = sources[row.source].year
        if gain(row) is not None and not row.apart and row.source not in weak and row.method not in ALONE and year:
            printed[row.method][year].append(row)
    firsts = [_first(method, min(years), years[min(years)]) for method, years in printed.items()]
    firsts.sort(key=lambda first: (first.year, first.gain, first.method))
    if len({first.year for first in firsts}) < 2:
        return None
    used = {row.source for years in printed.values() for rows_of_year in years.values() for row in rows_of_year}
    return History(*pair, len(used), tuple(firsts), tuple(_records(firsts)), weak)


def _first(method: str, year: int, rows: Sequence[Reported]) -> First:
    gains = [found for row in rows if (found := gain(row)) is not None]
    return First(method, year, median(gains), tuple(sorted({row.source for row in rows})))


def _records(firsts: Sequence[First]) -> Iterator[First]:
    best: First | None = None
    for year in sorted({first.year for first in firsts}):
        leading = max((first for first in firsts if first.year == year), key=lambda first: first.gain)
        if best is None or leading.gain > best.gain:
            best = leading
            yield best
