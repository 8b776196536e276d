"""A study's plots: lines through means, with a dot for each seed."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.render.plot import Axis, Dot, Figure, Series, Table, around, labelled, left, lower, path, ticks
from kdbench.render.texts import number
from kdbench.stats.intervals import t_interval
from kdbench.studies import Drawn
from kdbench.studies.measures import MEASURES


def plot_of(drawn: Drawn) -> Figure:
    """Each line of the plot, and a table that has a row for each setting, with a cell for each line."""
    plot, measure = drawn.plot, MEASURES[drawn.plot.measure]
    settings = sorted({at for line, _ in drawn.lines for at in line.at})
    across = lower(settings[0], settings[-1], plot.log)
    up = left(*around(float(value) for _, rows in drawn.lines for values in rows for value in values))
    series, cells, said = [], [], []
    for place, (line, rows) in enumerate(drawn.lines):
        known = sorted((at, [float(value) for value in values]) for at, values in zip(line.at, rows, strict=True))
        known = [(at, values) for at, values in known if values]
        means = tuple((across(at), up(sum(values) / len(values))) for at, values in known)
        seeds = [Dot(across(at), up(value), kind="seed") for at, values in known for value in values]
        series.append(Series(line.title, f"line-{place}", path(means), (*seeds, *(Dot(x, y) for x, y in means))))
        cells.append({at: _interval(values, measure.digits) for at, values in known})
        reached = ", ".join(f"{number(sum(values) / len(values), measure.digits)} at {at:g}" for at, values in known)
        said.append(f"{line.title}: {reached or 'nothing yet'}")
    return Figure(
        title=plot.title,
        described=f"Means over seeds of {measure.title} by {plot.x}. {'; '.join(said)}.",
        across=Axis(plot.x, across, labelled((across(at), f"{at:g}") for at in settings)),
        up=Axis(f"{measure.title}, {measure.unit}", up, ticks(up)),
        series=tuple(series),
        table=Table(
            (plot.x, *(line.title for line, _ in drawn.lines)),
            tuple((f"{at:g}", *(own.get(at, "–") for own in cells)) for at in settings),
        ),
    )


def _interval(values: Sequence[float], digits: int) -> str:
    """Their mean, and half the width of its interval where there are several."""
    found = t_interval(values)
    half = "" if found.half is None else f" ± {number(found.half, digits)}"
    return f"{number(found.mean, digits)}{half}"
