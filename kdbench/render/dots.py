"""The geometry of the interval dot-plots: one small SVG a table row, all rows of a table on one axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdbench.render.plot import typical
from kdbench.stats.intervals import Interval

WIDTH, HEIGHT, MARGIN = 150, 16, 5


@dataclass(frozen=True)
class Dot:
    """Horizontal pixel positions: the mean, the interval's ends if it has any, and the reference line.

    ``beyond``: -1 or 1 where the mean lies below or above what is drawn, and stands at the edge.
    """

    x: float
    left: float | None
    right: float | None
    reference: float | None
    kind: str
    beyond: int = 0


@dataclass(frozen=True)
class Axis:
    """The range of values that a table's plots share, in percent."""

    low: float
    high: float
    reference: float | None = None

    def place(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)

    def dot(self, interval: Interval, kind: str) -> Dot:
        """The plot of ``interval``; ``kind`` is the CSS class that colours it."""
        reference = None if self.reference is None else self.place(self.reference)
        beyond = (interval.mean > self.high) - (interval.mean < self.low)
        if interval.low is None or interval.high is None or beyond:
            return Dot(self.place(interval.mean), None, None, reference, kind, beyond)
        return Dot(self.place(interval.mean), self.place(interval.low), self.place(interval.high), reference, kind)


def axis(intervals: Iterable[Interval], reference: float | None = None, widest: float = 4.0) -> Axis:
    """An axis around ``intervals`` and the ``reference`` line's value; 0 to 100 when there is neither.

    An interval may stretch it to no more than ``widest`` times the spread of the means (that of two seeds
    that disagree would flatten every other row) and is cut there; a mean that lies far from all others, too.
    """
    every = list(intervals)
    usual = typical([i.mean for i in every])
    shown = [i for i in every if i.mean in usual]
    means = [i.mean for i in shown] + ([] if reference is None else [reference])
    if not means:
        return Axis(0.0, 100.0)
    low, high = min(means), max(means)
    spread = max(high - low, 0.5)
    ends = [end for i in shown for end in (i.low, i.high) if end is not None]
    reach = (widest - 1) / 2 * spread
    left = max(min([low, *ends]), low - reach)
    right = min(max([high, *ends]), high + reach)
    pad = 0.02 * (right - left) or 0.5
    return Axis(left - pad, right + pad, reference)
