"""The plots of a study, as data: what is measured of which rows, at which settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kdbench.errors import UserError, listed, shown
from kdbench.studies.measures import MEASURES
from kdbench.suites.table import Table

#: More lines than can be told apart.
MOST_LINES = 6


@dataclass(frozen=True)
class Line:
    """``rows``, by label or ``label on pair``, each at a number of ``at``; ``pair``: theirs, empty for all together."""

    title: str
    rows: tuple[str, ...]
    at: tuple[float, ...]
    pair: str = ""


@dataclass(frozen=True)
class Plot:
    """``measure`` of the rows of ``lines`` over what ``x`` names; ``log``: its axis is that of its logarithm."""

    title: str
    measure: str
    x: str
    lines: tuple[Line, ...]
    suite: str
    log: bool = False


def parse_plot(raw: object, where: str, suites: tuple[str, ...]) -> Plot:
    """One of a study's [[plots]]; UserError begins with ``where``."""
    table = Table(raw, where)
    measure = table.take("measure", str, "top1")
    if measure not in MEASURES:
        raise UserError(f"{where}: measure must be one of {listed(list(MEASURES))}, not {shown(measure)}.")
    suite, log = table.take("suite", str, suites[0]), table.take("log", bool, False)
    if suite not in suites:
        raise UserError(f"{where}: suite must be one of the study's, {listed(suites)}, not {shown(suite)}.")
    raws: list[Any] = table.take("lines", list)
    if not 1 <= len(raws) <= MOST_LINES:
        raise UserError(f"{where}: a plot has 1 to {MOST_LINES} lines, not {len(raws)}.")
    lines = tuple(_line(each, f"{where}: lines[{number}]") for number, each in enumerate(raws))
    plot = Plot(table.take("title", str), measure, table.take("x", str), lines, suite, log)
    table.finish()
    if log and min(at for line in lines for at in line.at) <= 0:
        raise UserError(f"{where}: at must hold numbers greater than 0 where log is true.")
    return plot


def _line(raw: object, where: str) -> Line:
    table = Table(raw, where)
    rows, at = texts(table, "rows"), numbers(table, "at")
    line = Line(table.take("title", str), rows, at, table.take("pair", str, ""))
    table.finish()
    if not rows or len(rows) != len(at) or len(set(at)) != len(at):
        raise UserError(f"{where}: at must have a number of its own for each of rows, of which there is one at least.")
    return line


def texts(table: Table, name: str, default: Any = ...) -> tuple[str, ...]:
    """The list of texts under ``name``."""
    found = table.take(name, list, default)
    if not all(isinstance(each, str) and each for each in found):
        raise UserError(f"{table.where}: {name} must be a list of texts.")
    return tuple(found)


def numbers(table: Table, name: str) -> tuple[float, ...]:
    """The list of numbers under ``name``."""
    found = table.take(name, list)
    if not all(isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each) for each in found):
        raise UserError(f"{table.where}: {name} must be a list of numbers.")
    return tuple(map(float, found))
