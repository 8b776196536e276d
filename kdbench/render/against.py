"""The plot of reported gains against measured ones, a dot a method and pair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kdbench.render.answers import Answer
from kdbench.render.plot import Axis, Dot, Figure, Rule, Series, Table, around, left, lower, ticks, typical, uncrowded
from kdbench.render.texts import number, signed
from kdbench.stats.aggregate import Spread
from kdbench.stats.intervals import Interval


@dataclass(frozen=True)
class Met:
    """A gain of ``method`` on a pair that is ``reported`` by ``sources``, and what ``suite`` measured of it."""

    method: str
    pair: str
    suite: str
    short: bool
    reported: Spread
    measured: Interval
    sources: tuple[str, ...]
    row: str

    @property
    def said(self) -> str:
        half = "" if self.measured.half is None else f" ± {number(self.measured.half)}"
        return (
            f"{self.method} on {self.pair}: reported {signed(self.reported.middle)}, measured "
            f"{signed(self.measured.mean)}{half} in {self.suite}"
        )


def met(answers: Iterable[Answer]) -> Iterator[Met]:
    """Every method, pair and suite of which both gains are known; of sources with a usual student alone."""
    for answer in answers:
        dataset, teacher, student = answer.pair
        for option in answer.options:
            evidence = option.evidence
            for each in evidence.measured:
                if (printed := evidence.printed_by_all) is not None and each.standing.gain is not None:
                    yield Met(
                        method=evidence.method,
                        pair=f"{teacher} \u2192 {student}, {dataset}",
                        suite=each.suite,
                        short=each.short,
                        reported=printed,
                        measured=each.standing.gain,
                        sources=evidence.sources or tuple(sorted({printed.source for printed in evidence.printed})),
                        row=each.standing.label,
                    )


def against(found: Sequence[Met]) -> Figure | None:
    """All of ``found`` on two axes of one scale; None without any."""
    if not found:
        return None
    usual = typical([value for each in found for value in (each.reported.middle, each.measured.mean)])
    limits = around([0.0, *usual, *_ends(found, max(usual), min(usual))])
    across, up = lower(*limits), left(*limits)

    def dot(each: Met) -> Dot:
        x, y = each.reported.middle, each.measured.mean
        low, high = each.measured.low, each.measured.high
        return Dot(
            across(x),
            up(y),
            each.said,
            kind="beyond" if across.beyond(x) or up.beyond(y) else "mean",
            across=(across(each.reported.low), across(each.reported.high)),
            up=None if low is None or high is None else (up(low), up(high)),
            label=each.method if len(found) <= 12 else "",
        )

    kinds = (("suites of full length", "line-0", False), ("short suites", "line-4", True))
    warning = (
        " A short suite trains for less than papers do, and its gains are no forecast of theirs."
        if any(each.short for each in found)
        else ""
    )
    return Figure(
        title="Reported against measured",
        described=f"{len(found)} gain{'' if len(found) == 1 else 's'} over the student alone, as sources print them "
        "(the middle one, and from where to where they go) and as they were measured here (with 95 % intervals). On "
        f"the diagonal both are equal; below it less was measured than is reported.{warning}",
        across=Axis("reported gain, points", across, ticks(across)),
        up=Axis("measured gain, points", up, ticks(up)),
        series=tuple(
            Series(title, kind, dots=uncrowded(map(dot, of_kind)))
            for title, kind, short in kinds
            if (of_kind := [each for each in found if each.short == short])
        ),
        rules=(Rule((across(limits[0]), up(limits[0])), (across(limits[1]), up(limits[1]))),),
        table=Table(
            ("Method", "Pair", "Reported, points", "From", "To", "Measured, points", "Suite", "Sources"),
            tuple(_row(each) for each in found),
        ),
    )


def _ends(found: Sequence[Met], highest: float, lowest: float) -> Iterator[float]:
    """Ends of intervals that stretch the axes by no more than the gains themselves do."""
    reach = max(highest - lowest, 1.0)
    for each in found:
        for end in (each.measured.low, each.measured.high, each.reported.low, each.reported.high):
            if end is not None and lowest - reach <= end <= highest + reach:
                yield end


def _row(each: Met) -> tuple[str, ...]:
    half = "" if each.measured.half is None else f" ± {number(each.measured.half)}"
    printed = (signed(value) for value in (each.reported.middle, each.reported.low, each.reported.high))
    return each.method, each.pair, *printed, f"{signed(each.measured.mean)}{half}", each.suite, ", ".join(each.sources)
