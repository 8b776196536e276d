"""The larger plots of a suite: a forest of gains, and gains beside costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from kdbench.render.plot import (
    ABOVE,
    LEFT,
    LISTED,
    NAMES,
    RIGHT,
    WIDTH,
    Axis,
    Bar,
    Dot,
    Figure,
    Rule,
    Scale,
    Series,
    Table,
    labelled,
    left,
    listed,
    path,
    steps,
    ticks,
    typical,
    uncrowded,
)
from kdbench.render.suiteview import Row, SuiteView
from kdbench.render.texts import number, signed
from kdbench.stats.aggregate import Spread
from kdbench.stats.intervals import Interval

#: More rows than these make no picture; those that follow are in the table.
MOST = 40
#: What rows of a kind are called, and the class that colours them.
KINDS = {"measured": ("methods", "line-0"), "aa": ("repeats under another random stream", "line-3")}


def forest(view: SuiteView) -> Figure | None:
    """Mean gains with their intervals, a dot a seed, and the band in which chance moves them; None without a gain."""
    rows = [(row, row.gain) for row in view.rows if row.gain is not None]
    shown = rows[:MOST]
    if not shown:
        return None
    noise = view.standings.noise
    up = listed("best first", [row.label for row, _ in shown])
    across = Scale(*_limits([row for row, _ in shown], noise), NAMES, WIDTH - RIGHT)
    bottom = up.scale.start
    chance = "" if noise is None else " The band is what two rows differ by through chance alone."
    table = "table of results" if len(rows) > LISTED else "table"
    more = "" if len(rows) == len(shown) else f" {len(rows) - len(shown)} more rows are in the {table}."
    return Figure(
        title=f"Mean gains over the student alone in {view.name}",
        described="In points, best first. The bar is the 95 % interval, small dots are single seeds; a dashed dot lies "
        f"beyond the edge.{chance}{more}",
        across=Axis("mean gain, points", across, ticks(across)),
        up=up,
        series=tuple(
            Series(title, colour, dots=tuple(dots))
            for kind, (title, colour) in KINDS.items()
            if (
                dots := [
                    dot
                    for (row, gain), tick in zip(shown, up.ticks, strict=True)
                    if row.kind == kind
                    for dot in _line(row, gain, across, tick.place)
                ]
            )
        ),
        rules=(Rule((across(0.0), ABOVE), (across(0.0), bottom)),),
        bars=() if noise is None else (Bar(across(-noise), ABOVE, _wide(across, noise), bottom - ABOVE),),
        table=Table(
            ("Row", "Mean gain, points", "Seeds"),
            tuple((row.label, _interval(gain), ", ".join(map(signed, row.seeds))) for row, gain in rows[:LISTED]),
        ),
    )


def costs(view: SuiteView) -> Figure | None:
    """Gains beside training costs, with the Pareto front; None with fewer than three rows that have both."""
    both = list(_costed(view.rows))
    if len(both) < 3:
        return None
    low, high = (bound(cost.middle for _, _, cost in both) for bound in (min, max))
    room = max((high / low) ** 0.06, 1.05)
    across = Scale(low / room, high * room, LEFT + 8, WIDTH - RIGHT - 8, log=True)
    up = left(*_limits([row for row, _, _ in both], None))
    dots = {row.label: _dot(row, gain, cost, across, up) for row, gain, cost in both}
    front = sorted((dots[row.label].x, dots[row.label].y) for row, _, _ in both if _efficient(row))
    more = f" The first {LISTED} rows are listed, all of them in the table of results." if len(both) > LISTED else ""
    named = uncrowded(sorted(dots.values(), key=lambda dot: not dot.label))
    return Figure(
        title=f"Mean gain beside training cost in {view.name}",
        described="Cost as a multiple of the student alone, on a log scale. The line is the Pareto front: no row "
        f"costs as little and gains as much as one on it.{more}",
        across=Axis(
            "cost, times the student alone", across, labelled((across(v), f"{v:g}") for v in _multiples(across))
        ),
        up=Axis("mean gain, points", up, ticks(up)),
        series=(
            Series("", "line-5", path(front) if len(front) > 1 else ""),
            Series("", "line-0", dots=named),
        ),
        rules=(Rule((across.start, up(0.0)), (across.end, up(0.0))),) if up.holds(0.0) else (),
        table=Table(
            ("Row", "Cost, times the student alone", "Mean gain, points", "On the front"),
            tuple(
                (row.label, number(cost.middle), _interval(gain), "yes" if _efficient(row) else "no")
                for row, gain, cost in both[:LISTED]
            ),
        ),
    )


def _costed(rows: Iterable[Row]) -> Iterator[tuple[Row, Interval, Spread]]:
    for row in rows:
        if row.gain and row.standing and row.standing.cost and row.standing.cost.middle > 0:
            yield row, row.gain, row.standing.cost


def _efficient(row: Row) -> bool:
    return row.standing is not None and row.standing.efficient


def _dot(row: Row, gain: Interval, cost: Spread, across: Scale, up: Scale) -> Dot:
    return Dot(
        across(cost.middle),
        up(gain.mean),
        f"{row.label}: {signed(gain.mean)} points at {number(cost.middle)} times the student alone",
        kind="beyond" if up.beyond(gain.mean) else "mean" if _efficient(row) else "seed",
        label=row.label if _efficient(row) else "",
    )


def _line(row: Row, gain: Interval, across: Scale, y: float) -> Iterator[Dot]:
    yield from (Dot(across(value), y, kind="seed") for value in row.seeds if across.holds(value))
    beyond = across.beyond(gain.mean)
    ends = None if beyond or gain.low is None or gain.high is None else (across(gain.low), across(gain.high))
    yield Dot(across(gain.mean), y, f"{row.label}: {_interval(gain)}", "beyond" if beyond else "mean", ends)


def _limits(rows: Sequence[Row], noise: float | None) -> tuple[float, float]:
    """From where to where the usual gains lie, zero and chance among them; one that failed is no measure for others."""
    means = typical([row.gain.mean for row in rows if row.gain])
    usual = [row for row in rows if row.gain and row.gain.mean in means]
    inside = [0.0, noise or 0.0, -(noise or 0.0), *means, *(seed for row in usual for seed in row.seeds)]
    ends = [end for row in usual if row.gain for end in (row.gain.low, row.gain.high) if end is not None]
    reach = max(max(*means, 0.0) - min(*means, 0.0), 0.5)  # no interval stretches the axis by more
    low = min(*inside, max(min(ends, default=0.0), min(*means, 0.0) - reach))
    high = max(*inside, min(max(ends, default=0.0), max(*means, 0.0) + reach))
    room = 0.03 * (high - low) or 0.5  # every gain is nothing
    return low - room, high + room


def _wide(across: Scale, noise: float) -> float:
    return round(across(noise) - across(-noise), 1)


def _multiples(scale: Scale) -> list[float]:
    """1, 1.5, 2, 3, 5 and 7 times powers of ten that ``scale`` holds; others if few."""
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    coarse = [multiple * 10.0**power for power in powers for multiple in (1, 1.5, 2, 3, 5, 7)]
    found = [value for value in coarse if scale.holds(value)]
    return found if len(found) > 2 else [value for value in steps(scale.low, scale.high, 5) if value > 0]


def _interval(gain: Interval) -> str:
    half = "" if gain.half is None else f" ± {number(gain.half)}"
    return f"{signed(gain.mean)}{half}"
