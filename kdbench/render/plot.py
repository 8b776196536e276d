"""A plot as data: scales, ticks, what stands between them, and the table beneath; ``svg`` draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import quantiles
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Pixels of a plot, and of what is left of its axes, beneath, above and to the right of them.
WIDTH, HEIGHT = 480, 300
LEFT, BENEATH, ABOVE, RIGHT = 58, 46, 12, 16
#: Pixels of a line of a plot with a line a row, and of the names beside it.
ROW, NAMES = 18, 140
#: Pixels that a label of the lower axis needs.
LABEL = 30
#: Pixels of a label's letter and line, as phones show them; how many letters are shown.
LETTER, LINE, LETTERS = 8.5, 16, 19
#: Rows of a suite that a plot's numbers are listed of, at most: larger pages take a browser long.
LISTED = 100
#: Lines that can be told apart, by the CSS classes ``line-0`` and so on.
MOST_LINES = 6

#: Every place that there is in a picture of the usual size.
_TENTHS = [str(tenth / 10) for tenth in range(10 * WIDTH + 1)]

Place = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """From ``low`` to ``high`` along pixels from ``start`` to ``end``; what is outside stands at an end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return math.floor(10 * (self.start + share * (self.end - self.start)) + 0.5) / 10  # round() takes long

    def texts(self, values: NDArray[np.floating]) -> list[str]:
        """The places of many ``values`` of a linear scale; floats take long to write, and long curves have many."""
        share = (np.clip(values.astype(float), self.low, self.high) - self.low) / (self.high - self.low)
        tenths = np.rint(10 * (self.start + share * (self.end - self.start))).astype(int)
        return [_TENTHS[tenth] for tenth in tenths.tolist()]

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def beyond(self, value: float) -> int:
        """-1 or 1 where ``value`` lies below or above what is drawn."""
        return (value > self.high) - (value < self.low)


class Tick(NamedTuple):
    """A mark of an axis, in pixels, and its label, which is empty where there is no room."""

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    title: str
    scale: Scale
    ticks: tuple[Tick, ...]


class Box(NamedTuple):
    """What a label covers, in pixels."""

    left: float
    right: float
    top: float
    bottom: float

    @property
    def inside(self) -> bool:
        return self.left >= LEFT and self.right <= WIDTH and self.top >= 0 and self.bottom <= HEIGHT - BENEATH

    def meets(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def covers(self, dot: Dot) -> bool:
        return self.left - 3 < dot.x < self.right + 3 and self.top - 3 < dot.y < self.bottom + 3


class Spot(NamedTuple):
    """Where a label stands by its dot: the CSS class that anchors it, and pixels from the dot to its base line."""

    kind: str
    across: float
    down: float

    def box(self, dot: Dot) -> Box:
        """What the label of ``dot`` covers here."""
        width, base = LETTER * min(len(dot.label), LETTERS), dot.y + self.down
        left = dot.x + self.across - {"after": 0.0, "across": 0.5, "before": 1.0}[self.kind] * width
        return Box(left, left + width, base - LINE + 3, base + 3)


#: Tried in this order.
AFTER, BEFORE = Spot("after", 7, -6), Spot("before", -7, -6)
SPOTS = (
    *(AFTER, BEFORE, Spot("across", 0, -10), Spot("after", 7, 15), Spot("before", -7, 15), Spot("across", 0, 20)),
    *(Spot("after", 9, 5), Spot("before", -9, 5)),
)


class Dot(NamedTuple):
    """A value in pixels, what is ``said`` of it, and the ends of its intervals along either axis.

    ``kind`` is its CSS class: ``mean``, ``seed``, or ``beyond`` where it stands at an end of an axis.
    """

    x: float
    y: float
    said: str = ""
    kind: str = "mean"
    across: Place | None = None
    up: Place | None = None
    label: str = ""
    spot: Spot = AFTER


@dataclass(frozen=True)
class Series:
    """What belongs together: a line along a ``path``, and dots. ``kind`` is the CSS class that colours it."""

    title: str
    kind: str
    path: str = ""
    dots: tuple[Dot, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A straight line from one place to another; ``kind`` is its CSS class."""

    begin: Place
    end: Place
    kind: str = "zero"


class Bar(NamedTuple):
    """A rectangle whose upper left corner is at ``x`` and ``y``."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Table:
    """The numbers of a plot: ``head`` names the columns, and each row begins with what it is of."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A plot with its title, its description in words, its axes and all that stands between them."""

    title: str
    described: str
    across: Axis
    up: Axis
    series: tuple[Series, ...]
    table: Table
    rules: tuple[Rule, ...] = ()
    bars: tuple[Bar, ...] = ()
    width: int = WIDTH

    @property
    def height(self) -> float:
        return self.up.scale.start + BENEATH

    @property
    def legend(self) -> tuple[Series, ...]:
        """What must be told apart; one alone is what the title says."""
        named = tuple({series.kind: series for series in reversed(self.series) if series.title}.values())[::-1]
        return named if len(named) > 1 else ()


def path(points: Iterable[tuple[object, object]]) -> str:
    """What a line goes along that joins ``points``."""
    return " ".join([f"{x},{y}" for x, y in points])


def lower(low: float, high: float, log: bool = False) -> Scale:
    """The usual scale of a lower axis; one value alone stands in its middle."""
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
    return Scale(low, high, LEFT + 8, WIDTH - RIGHT - 8, log)


def left(low: float, high: float) -> Scale:
    """The usual scale of a left axis."""
    return Scale(low, high, HEIGHT - BENEATH, ABOVE)


def listed(title: str, labels: Sequence[str]) -> Axis:
    """A left axis that names a row a line, from above; the place of each is that of its tick."""
    scale = Scale(-len(labels) - 0.5, -0.5, ABOVE + ROW * len(labels), ABOVE)
    cut = [label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…" for label in labels]
    return Axis(title, scale, tuple(Tick(scale(-1 - number), label) for number, label in enumerate(cut)))


def steps(low: float, high: float, about: int = 7) -> list[float]:
    """Round numbers from ``low`` to ``high``, a step of 1, 2 or 5 times a power of ten apart: about so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]


@lru_cache
def ticks(scale: Scale, about: int = 5, text: str = "{:g}") -> tuple[Tick, ...]:
    """Ticks at round numbers of ``scale``."""
    found = steps(scale.low, scale.high, about)
    return tuple(Tick(scale(value), text.format(value).replace("-", "\u2212")) for value in found)


def labelled(marks: Iterable[tuple[float, str]]) -> tuple[Tick, ...]:
    """Ticks at ``marks``, of which those have a label that it does not push into the one before."""
    found: list[Tick] = []
    free = -math.inf
    for place, label in marks:
        found.append(Tick(place, label if place >= free else ""))
        free = place + LABEL if place >= free else free
    return tuple(found)


def uncrowded(dots: Iterable[Dot]) -> tuple[Dot, ...]:
    """``dots``, each with its label where that stands on no earlier one and covers no dot, or without it.

    What has no label says its name when it is pointed at, and has its row in the table beneath.
    """
    every = list(dots)
    taken: list[Box] = []
    found = []
    for dot in every:
        boxes = [(spot, spot.box(dot)) for spot in SPOTS] if dot.label else []
        free = (found for found in boxes if found[1].inside and not any(map(found[1].meets, taken)))
        spot, box = next((each for each in free if not any(map(each[1].covers, every))), (AFTER, None))
        if box is not None:
            taken.append(box)
        found.append(dot._replace(label=dot.label if box else "", spot=spot))
    return tuple(found)


def typical(values: Sequence[float]) -> list[float]:
    """Those of ``values`` that lie within three times their middle half, or three points, of it.

    What failed must not flatten all the others.
    """
    if len(values) < 4:
        return list(values)
    low, _, high = quantiles(values, n=4, method="inclusive")
    reach = 3 * max(high - low, 1.0)
    return [value for value in values if low - reach <= value <= high + reach]


def around(values: Iterable[float]) -> tuple[float, float]:
    """From where to where an axis goes that shows ``values``, with a little room."""
    found = list(values)
    low, high = min(found), max(found)
    room = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def some(count: int, most: int) -> Iterator[int]:
    """At most about ``most`` of the numbers from 0 to ``count`` - 1, evenly apart, the last one always among them."""
    step = max(1, math.ceil(count / most))
    yield from range((count - 1) % step, count, step)
