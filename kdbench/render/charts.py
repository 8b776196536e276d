"""The larger plots of a suite, as geometry: a forest of gains, and gains beside costs. Its table has the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from kdbench.render.plot import Scale, steps, typical
from kdbench.render.suiteview import Row, SuiteView

WIDTH, LEFT, RIGHT, LINE, TOP, FOOT = 600, 140, 16, 20, 8, 36
#: More rows than these make no picture; those that follow are in the table.
MOST = 40
#: The height of what gains are drawn in beside costs.
TALL = 300


@dataclass(frozen=True)
class Mark:
    """A row in a plot: where its mean is, the ends of its interval, its single seeds, and what is said of it.

    ``beyond``: -1 or 1 where the mean lies below or above what is drawn.
    """

    label: str
    said: str
    kind: str
    x: float
    y: float
    ends: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()
    beyond: int = 0
    named: bool = False


@dataclass(frozen=True)
class Chart:
    """``ticks`` and ``rungs`` are along and up, as (pixel, text); ``front`` joins points."""

    title: str
    description: str
    height: int
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    rungs: tuple[tuple[float, str], ...] = ()
    zero: float | None = None
    band: tuple[float, float] | None = None
    front: str = ""
    more: int = 0
    width: int = WIDTH


def forest(view: SuiteView) -> Chart | None:
    """Mean gains with their intervals, a dot a seed, and the band in which chance moves them; None without a gain."""
    rows = [row for row in view.rows if row.gain is not None]
    shown = rows[:MOST]
    if not shown:
        return None
    noise = view.standings.noise
    scale = Scale(*_limits(shown, noise), LEFT, WIDTH - RIGHT)
    height = TOP + LINE * len(shown) + FOOT
    marks = tuple(_line(row, scale, TOP + LINE * (number + 0.5)) for number, row in enumerate(shown))
    chance = "" if noise is None else " The band is what two rows differ by through chance alone."
    return Chart(
        title=f"Mean gains over the student alone in {view.name}",
        description=f"In points, best first. The bar is the 95 % interval, small dots are single seeds.{chance}"
        " The numbers are in the table of results.",
        height=height,
        marks=marks,
        ticks=_ticks(scale),
        zero=scale(0.0),
        band=None if noise is None else (scale(-noise), scale(noise)),
        more=len(rows) - len(shown),
    )


def costs(view: SuiteView) -> Chart | None:
    """Gains beside training costs, with the Pareto front; None with fewer than three rows that have both."""
    both = [
        row for row in view.rows if row.gain and row.standing and row.standing.cost and row.standing.cost.middle > 0
    ]
    if len(both) < 3:
        return None
    cost: Callable[[Row], float] = lambda row: math.log10(row.standing.cost.middle)  # type: ignore[union-attr]  # noqa: E731
    low, high = min(map(cost, both)), max(map(cost, both))
    room = max((high - low) * 0.06, 0.02)
    across = Scale(low - room, high + room, 64, WIDTH - RIGHT)
    up = Scale(*_limits(both, None), TALL - FOOT, TOP)
    marks = tuple(
        Mark(
            row.label,
            f"{row.label}: {_signed(row.gain.mean)} points at {row.standing.cost.middle:.2f} times the student alone",
            row.kind,
            across(cost(row)),
            up(row.gain.mean),
            beyond=up.beyond(row.gain.mean),
            named=row.standing.efficient,
        )
        for row in both
        if row.gain and row.standing and row.standing.cost
    )
    front = sorted((mark.x, mark.y) for mark in marks if mark.named)
    crowded = {
        mark.label
        for number, mark in enumerate(marks)
        if any(other.named and abs(other.x - mark.x) < 80 and abs(other.y - mark.y) < 14 for other in marks[:number])
    }
    return Chart(
        title=f"Mean gain beside training cost in {view.name}",
        description="Cost as a multiple of the student alone, on a log scale. The line is the Pareto front: no row "
        "costs as little and gains as much as one on it. The numbers are in the table of results.",
        height=TALL,
        marks=tuple(replace(mark, named=mark.named and mark.label not in crowded) for mark in marks),
        ticks=tuple((across(math.log10(value)), f"{value:g} ×") for value in _multiples(low - room, high + room)),
        rungs=tuple((up(value), _signed(value)) for value in steps(up.low, up.high, 6)),
        zero=up(0.0) if up.low <= 0 <= up.high else None,
        front=" ".join(f"{x},{y}" for x, y in front) if len(front) > 1 else "",
    )


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


def _line(row: Row, scale: Scale, y: float) -> Mark:
    gain = row.gain
    assert gain is not None
    ends = None if gain.low is None or gain.high is None else (scale(gain.low), scale(gain.high))
    half = "" if gain.half is None else f" ± {gain.half:.2f}"
    beyond = scale.beyond(gain.mean)
    seeds = tuple(scale(value) for value in row.seeds if scale.low <= value <= scale.high)
    said = f"{row.label}: {_signed(gain.mean)}{half}"
    return Mark(row.label, said, row.kind, scale(gain.mean), y, None if beyond else ends, seeds, beyond, named=True)


def _ticks(scale: Scale) -> tuple[tuple[float, str], ...]:
    return tuple((scale(value), _signed(value)) for value in steps(scale.low, scale.high))


def _multiples(low: float, high: float) -> Iterable[float]:
    """1, 1.5, 2, 3, 5 and 7 times powers of ten with logarithms from ``low`` to ``high``; others if few."""
    coarse = [m * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for m in (1, 1.5, 2, 3, 5, 7)]
    found = [value for value in coarse if low <= math.log10(value) <= high]
    return found if len(found) > 2 else [v for v in steps(10**low, 10**high, 5) if v > 0]


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "\u2212")
    return "0" if value == 0 else text
