"""The plot of what methods gained when they were first reported on a pair, by year."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kdbench.records.gains import First, History
from kdbench.render.plot import (
    Axis,
    Dot,
    Figure,
    Place,
    Scale,
    Series,
    Table,
    Tick,
    around,
    left,
    lower,
    path,
    ticks,
    typical,
    uncrowded,
)
from kdbench.render.texts import signed


def by_year(history: History) -> Figure:
    """A dot a method, and a line through what was best so far."""
    years = sorted({first.year for first in history.firsts})
    across = lower(years[0], years[-1])
    up = left(*around([0.0, *typical([first.gain for first in history.firsts])]))
    records = {first.method for first in history.records}
    dots = tuple(
        Dot(
            across(first.year),
            up(first.gain),
            f"{first.method}, {first.year}: {signed(first.gain)} ({', '.join(first.sources)})",
            kind=_kind(first, records, up),
            label=first.method if first.method in records else "",
        )
        for first in history.firsts
    )
    weak = f" Left out, with a weak student alone: {', '.join(history.weak)}." if history.weak else ""
    return Figure(
        title=f"{history.teacher} \u2192 {history.student} on {history.dataset}",
        described=f"Gains of {len(history.firsts)} methods over the student alone of the same source, in the year of "
        "the first source at hand that ran them (the middle one of several); the line is the best so far. Recipes, "
        "teachers and selected epochs differ between sources: no dot is shown to be better than another."
        f"{weak}",
        across=Axis("year", across, tuple(Tick(across(year), f"{year}") for year in range(years[0], years[-1] + 1))),
        up=Axis("reported gain, points", up, ticks(up)),
        series=(
            Series("", "line-5", path(_best_so_far(history, across, up))),
            Series("", "line-0", dots=uncrowded(dots)),
        ),
        table=Table(
            ("Method", "Year", "Gain, points", "Sources"),
            tuple((f.method, f"{f.year}", signed(f.gain), ", ".join(f.sources)) for f in history.firsts),
        ),
    )


def _kind(first: First, records: Collection[str], up: Scale) -> str:
    return "beyond" if up.beyond(first.gain) else "mean" if first.method in records else "seed"


def _best_so_far(history: History, across: Scale, up: Scale) -> Iterator[Place]:
    """Stairs that rise at each record, to the last year."""
    before = None
    for record in history.records:
        if before is not None:
            yield across(record.year), up(before)
        before = record.gain
        yield across(record.year), up(record.gain)
    if before is not None:
        yield across(history.firsts[-1].year), up(before)
