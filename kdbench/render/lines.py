"""The geometry of a study's plots: lines through means, with a dot for each seed, as one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.stats.intervals import t_interval
from kdbench.studies import Drawn
from kdbench.studies.measures import MEASURES

#: Pixels of a plot, and of what is left of its axes, beneath, above and to the right of them.
WIDTH, HEIGHT = 480, 300
LEFT, BENEATH, ABOVE, RIGHT = 58, 46, 12, 16
#: Pixels that a label of the lower axis needs.
LABEL = 30
#: Ticks of the left axis, about.
TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A mark of an axis, in pixels, and its label, which is empty where there is no room."""

    place: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A line: its CSS class, the points of its means, and the dots of seeds."""

    title: str
    kind: str
    points: str
    means: tuple[tuple[float, float], ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PlotView:
    """A plot as its page shows it; ``table`` has a row for each setting, with a cell for each line."""

    title: str
    x: str
    y: str
    described: str
    curves: tuple[Curve, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    table: tuple[tuple[str, tuple[str, ...]], ...]


def plot_view(drawn: Drawn) -> PlotView:
    plot, measure = drawn.plot, MEASURES[drawn.plot.measure]
    unit = measure.unit
    settings = sorted({at for line, _ in drawn.lines for at in line.at})
    scores = [float(value) for _, rows in drawn.lines for values in rows for value in values]
    ticks = _ticks(min(scores), max(scores))
    low, high = min(ticks[0], *scores), max(ticks[-1], *scores)
    first, last = (_scaled(settings[end], plot.log) for end in (0, -1))

    def across(at: float) -> float:
        share = (_scaled(at, plot.log) - first) / (last - first) if last > first else 0.5
        return round(LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 16), 1)

    def up(value: float) -> float:
        return round(HEIGHT - BENEATH - (value - low) / (high - low) * (HEIGHT - BENEATH - ABOVE), 1)

    curves, cells, said = [], [], []
    for number, (line, rows) in enumerate(drawn.lines):
        known = sorted((at, [float(value) for value in values]) for at, values in zip(line.at, rows, strict=True))
        known = [(at, values) for at, values in known if values]
        means = tuple((across(at), up(sum(values) / len(values))) for at, values in known)
        dots = tuple((across(at), up(value)) for at, values in known for value in values)
        points = " ".join(f"{x},{y}" for x, y in means)
        curves.append(Curve(line.title, f"line-{number}", points, means, dots))
        cells.append({at: _interval(values, measure.digits) for at, values in known})
        reached = ", ".join(f"{sum(values) / len(values):.{measure.digits}f} at {at:g}" for at, values in known)
        said.append(f"{line.title}: {reached or 'nothing yet'}")
    return PlotView(
        title=plot.title,
        x=plot.x,
        y=f"{measure.title}, {unit}",
        described=f"Means over seeds of {measure.title} by {plot.x}. {'; '.join(said)}.",
        curves=tuple(curves),
        across=_labelled([(across(at), f"{at:g}") for at in settings]),
        up=tuple(Tick(up(value), f"{value:g}") for value in ticks),
        table=tuple((f"{at:g}", tuple(own.get(at, "–") for own in cells)) for at in settings),
    )


def _scaled(at: float, log: bool) -> float:
    return math.log(at) if log else at


def _interval(values: Sequence[float], digits: int) -> str:
    """Their mean, and half the width of its interval where there are several."""
    found = t_interval(values)
    half = "" if found.half is None else f" ± {found.half:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    room = (high - low) or max(abs(high), 1.0) * 0.1
    size = 10.0 ** math.floor(math.log10(room / TICKS))
    step = next(size * factor for factor in (1, 2, 5, 10) if room / (size * factor) <= TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _labelled(marks: Sequence[tuple[float, str]]) -> tuple[Tick, ...]:
    """Ticks at ``marks``, of which those have a label that it does not push into the one before."""
    ticks: list[Tick] = []
    free = -math.inf
    for place, label in marks:
        ticks.append(Tick(place, label if place >= free else ""))
        free = place + LABEL if place >= free else free
    return tuple(ticks)
