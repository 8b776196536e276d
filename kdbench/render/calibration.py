"""The plot of how sure a row's networks are on one pair, and how often they are right."""

from __future__ import annotations

from functools import cache

from kdbench.records.verify import Seen
from kdbench.render.measured import Line
from kdbench.render.plot import Axis, Bar, Dot, Figure, Rule, Series, Table, left, lower, path, ticks
from kdbench.render.texts import SELECTION_NAMES, number
from kdbench.stats.calibration import reliability

#: Percent of all images: of bins that hold less, a dot says little, and is small.
FEW = 1.0


_ACROSS, _UP = lower(0, 100), left(0, 100)


@cache
def _sides(low: float, high: float) -> tuple[float, float]:
    """Where the bar of a bin begins, and how wide it is."""
    return _ACROSS(low), round(_ACROSS(high) - _ACROSS(low) - 1, 1)


def calibration(line: Line, selection: str, seen: Seen) -> Figure | None:
    """The reliability diagram of all seeds together; None where no prediction file says anything."""
    tables = [found for r in line.cell.finished if (found := seen.binned(r, selection)) is not None]
    if not tables:
        return None
    bins = reliability(tables)
    across, up = _ACROSS, _UP
    texts = [(number(each.confidence, 1), number(each.accuracy, 1)) for each in bins]
    dots = tuple(
        Dot(
            across(each.confidence),
            up(each.accuracy),
            f"{right} % right where {sure} % sure: {each.images} image{'' if each.images == 1 else 's'}",
            "seed" if each.share < FEW else "mean",
        )
        for each, (sure, right) in zip(bins, texts, strict=True)
    )
    error = line.metrics["ece"]
    gap = "" if error is None else f" The mean calibration error of a seed is {number(100 * error.mean, 1)} %."
    return Figure(
        title="Calibration",
        described=f"How often the networks of all seeds are right, by how sure they are, at the "
        f"{SELECTION_NAMES[selection]}: on the diagonal they know, below it they are too sure. Grey bars: percent "
        f"of the images in each bin; bins with less than one have a small dot.{gap}",
        across=Axis("confidence, %", across, ticks(across)),
        up=Axis("accuracy, %", up, ticks(up)),
        series=(Series("", "line-0", path((dot.x, dot.y) for dot in dots), dots),),
        rules=(Rule((across(0), up(0)), (across(100), up(100))),),
        bars=tuple(
            Bar(begin, top, width, height)
            for each in bins
            for (begin, width), top in [(_sides(each.low, each.high), up(each.share))]
            if (height := round(up.start - top, 1)) > 0
        ),
        table=Table(
            ("Confidence, %", "Images", "Mean confidence, %", "Accuracy, %"),
            tuple(
                (f"{each.low:.1f} to {each.high:.1f}", f"{each.images}", *said)
                for each, said in zip(bins, texts, strict=True)
            ),
        ),
    )
