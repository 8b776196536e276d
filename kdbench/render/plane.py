"""The plot of a study of biased teachers: how good students are, over the unreliability and ambiguity of teachers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdbench.stats.aggregate import Cell, cells
from kdbench.studies import Study
from kdbench.suites import Suite

Record = Mapping[str, Any]

#: Pixels of the square, and of what stands left of it and below.
SIDE, LEFT, BELOW, ABOVE = 420, 52, 46, 28
#: The k of which the table tells both degrees, as far as there are so many.
SWEPT = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Point:
    """A teacher: where it lies, in pixels, its degrees, and how good its students are, over ``n`` seeds, in percent.

    ``shade``: from 0.1 for the worst students that are drawn to 1 for the best. ``swept``: both degrees for each k.
    """

    teacher: str
    x: float
    y: float
    shade: float
    unreliability: float
    ambiguity: float
    teacher_top1: float
    top1: float
    n: int
    swept: tuple[tuple[float, float] | None, ...]

    #: Pixels of where the number begins.
    label: tuple[float, float] = (0.0, 0.0)

    @property
    def burden(self) -> float:
        return self.unreliability + self.ambiguity


@dataclass(frozen=True)
class Plane:
    """``points``, the best students first; ``swept``: the k of the table's columns; ``top_k``: that of the plot."""

    points: tuple[Point, ...]
    swept: tuple[int, ...]
    top_k: int
    row: str
    suite: str
    width: int = LEFT + SIDE + 16
    height: int = ABOVE + SIDE + BELOW

    @property
    def ticks(self) -> tuple[tuple[float, float, float], ...]:
        """Value, place on the horizontal axis, place on the vertical one."""
        return tuple((value / 4, *place(value / 4, value / 4)) for value in range(5))

    @property
    def title(self) -> str:
        return f"Accuracy of {self.row} over the unreliability and the ambiguity of {len(self.points)} teachers"

    @property
    def description(self) -> str:
        """The plot in words, for who cannot see it."""
        below = [point for point in self.points if point.burden < 1]
        beyond = [point for point in self.points if point.burden >= 1]
        told = [
            f"{len(side)} teachers {where}, whose students reach {min(p.top1 for p in side):.1f} to "
            f"{max(p.top1 for p in side):.1f} %"
            for side, where in ((below, "below the line where both sum to 1"), (beyond, "on it or beyond"))
            if side
        ]
        return "; ".join(told) + "."


def place(unreliability: float, ambiguity: float) -> tuple[float, float]:
    """Pixels of a point of the plane, whose axes go from 0 to 1."""
    return round(LEFT + unreliability * SIDE, 1), round(ABOVE + (1 - ambiguity) * SIDE, 1)


def plane_of(study: Study, suites: Mapping[str, Suite], rows: Iterable[Record]) -> Plane | None:
    """The plane of ``study`` by the measured results in ``rows``; None without one, or without trials that ended."""
    suite = suites[study.suites[0]]
    shown = [row for row in rows if row["evidence"] == "measured" and row["suite"] == suite.id]
    drawn = [cell for cell in cells(shown) if study.plane and cell.label == study.plane and cell.finished]
    means = {cell.pair: _mean(cell, suite) for cell in drawn}
    if not means:
        return None
    worst, best = min(means.values()), max(means.values())
    facts = {cell.pair: cell.finished[0]["teacher"] for cell in drawn}
    known = {degree["top_k"] for teacher in facts.values() for degree in teacher.get("degrees", ())}
    swept = tuple(k for k in SWEPT if k in known)
    points = []
    for cell in drawn:
        teacher, top1 = facts[cell.pair], means[cell.pair]
        degrees = {d["top_k"]: (d["unreliability"], d["ambiguity"]) for d in teacher.get("degrees", ())}
        x, y = place(teacher["unreliability"], teacher["ambiguity"])
        points.append(
            Point(
                teacher=cell.pair.partition(":")[0],
                x=x,
                y=y,
                shade=round(0.1 + 0.9 * (top1 - worst) / ((best - worst) or 1.0), 2),
                unreliability=teacher["unreliability"],
                ambiguity=teacher["ambiguity"],
                teacher_top1=teacher["top1"],
                top1=top1,
                n=len(cell.finished),
                swept=tuple(degrees.get(k) for k in swept),
            )
        )
    top_k = next(iter(facts.values()))["top_k"]
    return Plane(tuple(sorted(_labelled(points), key=lambda p: -p.top1)), swept, top_k, study.plane, suite.id)


def _labelled(points: Iterable[Point]) -> Iterator[Point]:
    """``points`` with their numbers beside them, lower where another number or point is in the way."""
    taken: list[tuple[float, float]] = []
    ordered = sorted(points, key=lambda p: (-p.x, p.y))
    for point in ordered:
        x, y = point.x + 9, point.y + 4
        others = [(other.x, other.y + 4) for other in ordered if other is not point]
        while any(-42 < x - at < 42 and abs(y - height) < 15 for at, height in taken) or any(
            -8 < at - x < 42 and abs(y - height) < 13 for at, height in others
        ):
            y += 7
        taken.append((x, y))
        yield replace(point, label=(x, round(y, 1)))


def _mean(cell: Cell, suite: Suite) -> float:
    found = [record["scores"][suite.protocol.selection]["top1"] for record in cell.finished]
    return float(sum(found) / len(found))
