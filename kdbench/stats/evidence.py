"""What speaks for a method on a pair: what was measured here, what others re-ran, what its authors print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from kdbench.stats.aggregate import Spread
from kdbench.stats.standings import Standing

#: Points that the choice of the epoch alone is worth, last or best on test: printed gains that are nearer are level.
EPOCH = 0.3
#: How well a gain is supported, the best first.
GRADES = ("measured", "re-run", "measured short", "authors", "quoted")


@dataclass(frozen=True)
class Measured:
    """A method's best-placed row in a suite that has the pair. ``short``: the suite trains less than papers do."""

    suite: str
    short: bool
    rows: int
    standing: Standing

    @property
    def best(self) -> bool:
        """Whether no row is shown to be better."""
        return self.standing.rank[0] == 1


@dataclass(frozen=True)
class Printed:
    """A gain that ``source`` prints: value minus its own student alone, in points.

    ``work``: what it shares with other sources of the same people, which count once together; the source if nothing.
    """

    source: str
    gain: float
    #: "authors", "re-run" or "quoted"
    by: str
    work: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that is known of ``method`` on one pair; with a ``row``, of that setting, where it ran in no other way."""

    method: str
    measured: tuple[Measured, ...] = ()
    printed: tuple[Printed, ...] = field(default=())
    row: str = ""

    @property
    def label(self) -> str:
        return self.row or self.method

    @property
    def grade(self) -> str:
        """The best of GRADES that holds."""
        held = {"measured short" if m.short else "measured" for m in self.measured if m.standing.gain is not None}
        return next(grade for grade in GRADES if grade in held | {p.by for p in self.printed})

    @property
    def best(self) -> Measured | None:
        """What was measured first of it that has a gain."""
        return next((m for m in self.measured if m.standing.gain is not None), None)

    @property
    def middle(self) -> float:
        """The gain that a reader is told first: the mean of what was measured, else the middle of what is printed."""
        gain = None if self.best is None else self.best.standing.gain
        if self.grade.startswith("measured") and gain is not None:
            return gain.mean
        return self.gain

    @property
    def helps(self) -> bool:
        """Whether it may be named as one that gains: of what was measured, over other seeds and test images, too."""
        if not self.grade.startswith("measured"):
            return self.gain > 0
        found = (m.standing.gain_on_images or m.standing.gain for m in self.measured)
        return any(gain is not None and gain.low is not None and gain.low > 0 for gain in found)

    @property
    def sources(self) -> tuple[str, ...]:
        """Who prints a gain that they found themselves, one source of each work; a quote is no second source."""
        own = sorted(((p.work or p.source, p.source) for p in self.printed if p.by != "quoted"), reverse=True)
        return tuple(sorted(dict(own).values()))

    def by_work(self, *by: str) -> dict[str, float]:
        """The median gain of each work that printed some, of those that found them as ``by`` says."""
        gains: dict[str, list[float]] = {}
        for printed in (p for p in self.printed if p.by in by):
            gains.setdefault(printed.work or printed.source, []).append(printed.gain)
        return {work: median(found) for work, found in gains.items()}

    @property
    def best_works(self) -> dict[str, float]:
        """The gains of works that re-ran it; of its authors where nobody did, of quotes where there is nothing else."""
        return self.by_work("re-run") or self.by_work("authors") or self.by_work("quoted")

    @property
    def reported(self) -> Spread | None:
        """The median and the range of the gains in ``best_works``."""
        gains = [*self.best_works.values()]
        return Spread(median(gains), min(gains), max(gains)) if gains else None

    @property
    def gain(self) -> float:
        """What it is ordered by among those of its grade: the lower end of what was measured, else what is reported."""
        if self.grade.startswith("measured"):
            gains = [m.standing.gain for m in self.measured if m.standing.gain is not None]
            return max(g.mean if g.low is None else g.low for g in gains)
        assert self.reported is not None
        return self.reported.middle


def ranked(
    measured: Mapping[tuple[str, str], Sequence[Measured]], printed: Mapping[str, Sequence[Printed]]
) -> list[Evidence]:
    """What is known of each method, the best grade first and the largest gain within it; without a gain, none.

    ``measured`` is by method and row, which is empty for the method as it comes; a row has nothing printed of it.
    """
    found = (
        Evidence(name, tuple(measured.get((name, row), ())), () if row else tuple(printed.get(name, ())), row)
        for name, row in {*measured, *((name, "") for name in printed)}
    )
    known = [e for e in found if e.printed or any(m.standing.gain is not None for m in e.measured)]
    return sorted(known, key=lambda e: (GRADES.index(e.grade), -e.gain, e.method, e.row))


def level(found: Sequence[Evidence]) -> list[Evidence]:
    """Those of ``found``, best first, that are not told from the first, which is one of them.

    Of what was measured those that may be the best of a suite in which the first may be, too; of what is printed those
    of the same grade that lie less than EPOCH below the first.
    """
    if not found:
        return []
    first = found[0]
    if first.grade.startswith("measured"):
        suites = {m.suite for m in first.measured if m.best}
        return [first, *(e for e in found[1:] if any(m.best and m.suite in suites for m in e.measured) and e.helps)]
    others = (e for e in found[1:] if e.grade == first.grade and e.helps)
    return [first, *(e for e in others if _lead(first, e) < EPOCH - 1e-9)]


def _lead(one: Evidence, other: Evidence) -> float:
    """By how many points ``one`` is printed ahead of ``other``: the middle of what compares them.

    That is the difference in each work that ran both under one recipe, and once that of what the other works found.
    """
    first, second = (each.by_work("re-run", "authors") for each in (one, other))
    both = first.keys() & second.keys()
    found = [first[work] - second[work] for work in both]
    apart = [[gain for work, gain in each.best_works.items() if work not in both] for each in (one, other)]
    if all(apart):
        found.append(median(apart[0]) - median(apart[1]))
    return median(found) if found else one.gain - other.gain


def best_supported(found: Iterable[Evidence], suite: str) -> list[tuple[Evidence, Measured]]:
    """The methods that may be the best of ``suite``: nothing is shown to be better than they are, by their rank."""
    made = [(e, m) for e in found for m in e.measured if m.suite == suite and m.best and m.standing.gain is not None]
    return sorted(made, key=lambda each: -each[1].standing.top1)
