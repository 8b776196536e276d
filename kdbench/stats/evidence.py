"""What speaks for a method on a pair: what was measured here, what others re-ran, what its authors print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
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

    @cached_property
    def works(self) -> dict[str, float]:
        """The gain of each work that found one itself."""
        return self.by_work("re-run", "authors")

    def by_work(self, *by: str) -> dict[str, float]:
        """The median gain of each work that printed some, of those that found them as ``by`` says."""
        gains: dict[str, list[float]] = {}
        for printed in (p for p in self.printed if p.by in by):
            gains.setdefault(printed.work or printed.source, []).append(printed.gain)
        return {work: median(found) for work, found in gains.items()}

    @cached_property
    def best_works(self) -> dict[str, float]:
        """The gains of works that re-ran it; of its authors where nobody did, of quotes where there is nothing else."""
        return self.by_work("re-run") or self.by_work("authors") or self.by_work("quoted")

    @property
    def reported(self) -> Spread | None:
        """The median and the range of the gains in ``best_works``."""
        return _spread(self.best_works)

    @property
    def printed_by_all(self) -> Spread | None:
        """The median and the range of what all works found, its authors among them; of quotes where that is all."""
        return _spread(self.works or self.by_work("quoted"))

    @property
    def behind(self) -> tuple[str, ...]:
        """The sources of ``best_works``, one of each."""
        own = sorted(((p.work or p.source, p.source) for p in self.printed if p.by == self._best_by), reverse=True)
        return tuple(sorted(dict(own).values()))

    @property
    def authors(self) -> Spread | None:
        """What its authors print, where ``reported`` is of re-runs alone."""
        return _spread(self.by_work("authors")) if self._best_by == "re-run" else None

    @property
    def _best_by(self) -> str:
        found = {p.by for p in self.printed}
        return next((by for by in ("re-run", "authors", "quoted") if by in found), "")

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


@dataclass(frozen=True)
class Ties:
    """How one of several methods stands to the others, which are given by their places among them.

    ``suites``: those in which it may be the best. ``level``, ``beaten``: of the methods of its grade that help, those
    that its printed gains are not told from, and those that are printed ahead of it.
    """

    suites: tuple[str, ...] = ()
    level: tuple[int, ...] = ()
    beaten: tuple[int, ...] = ()


def ties(found: Sequence[Evidence]) -> list[Ties]:
    """How each of ``found`` stands to the others.

    Printed gains are told apart where one is ahead by EPOCH points or more.
    """
    leads: list[dict[int, float]] = [{} for _ in found]
    printed = [(i, grade) for i, each in enumerate(found) if not (grade := each.grade).startswith("measured")]
    for (i, grade), (j, same) in combinations(printed, 2):
        if grade == same:
            lead = _lead(found[i], found[j])
            leads[i][j], leads[j][i] = lead, -lead
    helping = [each.helps for each in found]
    return [
        Ties(
            tuple(sorted({m.suite for m in each.measured if m.best})) if helps else (),
            tuple(sorted(j for j, lead in others.items() if helping[j] and abs(lead) < EPOCH - 1e-9)),
            tuple(sorted(j for j, lead in others.items() if helping[j] and lead <= -EPOCH + 1e-9)),
        )
        for each, helps, others in zip(found, helping, leads, strict=True)
    ]


def leading(found: Sequence[Evidence], told: Sequence[Ties]) -> list[int]:
    """The places in ``found``, best first and ``told`` as ties() does, of the best supported and what is level with it.

    That is the first of the best grade; of printed gains, the first that none of its grade is printed ahead of. Level
    with what was measured are those that may be the best of a suite in which it may be, too.
    """
    if not found:
        return []
    same = [i for i, each in enumerate(found) if each.grade == found[0].grade]
    first = next((i for i in same if not set(told[i].beaten) & set(same)), 0)
    if found[0].grade.startswith("measured"):
        suites = {m.suite for m in found[first].measured if m.best}
        return [first, *(i for i, each in enumerate(told) if i != first and suites & set(each.suites))]
    return [first, *told[first].level]


def _lead(one: Evidence, other: Evidence) -> float:
    """By how many points ``one`` is printed ahead of ``other``: the middle of what compares them.

    That is the difference in each work that ran both under one recipe, and once that of what other re-runs found, or
    authors of what nobody re-ran.
    """
    both = one.works.keys() & other.works.keys()
    found = [one.works[work] - other.works[work] for work in both]
    apart = [[gain for work, gain in each.best_works.items() if work not in both] for each in (one, other)]
    if all(apart):
        found.append(median(apart[0]) - median(apart[1]))
    return median(found) if found else one.gain - other.gain


def _spread(works: Mapping[str, float]) -> Spread | None:
    return Spread(median(works.values()), min(works.values()), max(works.values())) if works else None


def best_supported(found: Iterable[Evidence], suite: str) -> list[tuple[Evidence, Measured]]:
    """The methods that may be the best of ``suite``: nothing is shown to be better than they are, by their rank."""
    made = [(e, m) for e in found for m in e.measured if m.suite == suite and m.best and m.standing.gain is not None]
    return sorted(made, key=lambda each: -each[1].standing.top1)
