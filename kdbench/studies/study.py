"""A study: claims of a paper as data, and the suites whose rows they are judged by. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.errors import UserError, listed, shown
from kdbench.names import check_name
from kdbench.registry import Registry
from kdbench.stats.claims import Bounds
from kdbench.studies.measures import MEASURES
from kdbench.studies.plots import Plot, numbers, parse_plot, texts
from kdbench.suites.table import Table
from kdbench.toml import parse_toml

#: Statistic -> the fields that say which rows it reads.
STATISTICS: Mapping[str, tuple[str, ...]] = {
    "mean": ("of",),
    "difference": ("of", "versus"),
    "share": ("of", "base", "top"),
    "slope": ("rows", "at"),
    "rank-correlation": ("rows", "with"),
    "between-seeds": ("of",),
}


@dataclass(frozen=True)
class Claim:
    """One claim. ``of``, ``versus``, ``base``, ``top``: rows, by label, or ``label on pair``; ``rows``: several.

    ``statistic``: how it is judged; ``measure``: of what; ``bounds``: where the value lies if it holds, so that the
    rest would refute it. ``at``: for a slope, the setting of each of ``rows``; ``other``: for a correlation, the second
    measure. ``pair``: the pair it speaks of, empty for all together. ``full``: what would decide it at full size;
    ``printed``: what the paper prints.
    """

    name: str
    text: str
    source: str
    statistic: str
    measure: str
    bounds: Bounds
    suite: str
    of: str = ""
    versus: str = ""
    base: str = ""
    top: str = ""
    rows: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    other: str = ""
    pair: str = ""
    full: str = ""
    printed: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        """The rows that it is judged by, each once, as it names them."""
        return tuple(dict.fromkeys(filter(None, (self.of, self.versus, self.base, self.top, *self.rows))))


@dataclass(frozen=True)
class Paper:
    title: str
    authors: str
    venue: str
    year: int
    url: str


@dataclass(frozen=True)
class Study:
    """What is studied, in which suites, and what is claimed.

    ``differs``: what is not as in the paper. ``plane``: the row whose students are drawn over the unreliability and
    the ambiguity of their teachers, those of the pairs of the first suite; empty for no such plot.
    """

    name: str
    title: str
    summary: str
    paper: Paper
    suites: tuple[str, ...]
    claims: tuple[Claim, ...]
    differs: tuple[str, ...] = ()
    plane: str = ""
    plots: tuple[Plot, ...] = ()


#: Study name -> (TOML text, where it lies); parsed when asked for.
STUDIES: Registry[tuple[str, str]] = Registry("study")


def get_study(name: str) -> Study:
    """The study called ``name``; UserError where there is none, or it says something that cannot be."""
    study = parse_study(*STUDIES.get(name))
    if study.name != name:
        raise UserError(
            f"{STUDIES.get(name)[1]}: its name is {name!r} where it is offered, so it must not be {study.name!r}."
        )
    return study


def parse_study(text: str, where: str) -> Study:
    """The study that TOML ``text`` describes; UserError begins with ``where``."""
    table = Table(parse_toml(text, where), where)
    name = table.take("name", str)
    check_name("study", name, where)
    suites = texts(table, "suites")
    if not suites:
        raise UserError(f"{where}: suites must name one at least.")
    title, summary = table.take("title", str), table.take("summary", str)
    paper = _paper(Table(table.take("paper", dict), f"{where}: paper"))
    differs, plane = texts(table, "differs", []), table.take("plane", str, "")
    raw, drawn = table.take("claims", list), table.take("plots", list, [])
    table.finish()
    claims = tuple(_claim(each, f"{where}: claims[{number}]", suites) for number, each in enumerate(raw))
    plots = tuple(parse_plot(each, f"{where}: plots[{number}]", suites) for number, each in enumerate(drawn))
    names = [claim.name for claim in claims]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{where}: two claims are named {twice!r}; give each a name of its own.")
    if not claims:
        raise UserError(f"{where}: a study makes one claim at least.")
    return Study(name, title, summary, paper, suites, claims, differs, plane, plots)


def _paper(table: Table) -> Paper:
    url = table.take("url", str)
    if not url.startswith("https://"):
        raise UserError(f"{table.where}: url must begin with https://, not {shown(url)}.")
    paper = Paper(
        table.take("title", str), table.take("authors", str), table.take("venue", str), table.count("year", 1900), url
    )
    table.finish()
    return paper


def _claim(raw: object, where: str, suites: tuple[str, ...]) -> Claim:
    table = Table(raw, where)
    statistic, measure = table.take("statistic", str), table.take("measure", str, "top1")
    if statistic not in STATISTICS:
        raise UserError(f"{where}: statistic must be one of {listed(list(STATISTICS))}, not {shown(statistic)}.")
    name = table.take("name", str)
    check_name("claim", name, where)
    fields: dict[str, Any] = {}
    for wanted in STATISTICS[statistic]:
        if wanted == "rows":
            fields["rows"] = texts(table, "rows")
        elif wanted == "at":
            fields["at"] = numbers(table, "at")
        else:
            fields["other" if wanted == "with" else wanted] = table.take(wanted, str)
    for used in (measure, *filter(None, [fields.get("other")])):
        if used not in MEASURES:
            raise UserError(f"{where}: measure must be one of {listed(list(MEASURES))}, not {shown(used)}.")
    if (MEASURES[measure].between is not None) != (statistic == "between-seeds"):
        raise UserError(
            f"{where}: the statistic between-seeds and a measure that compares two networks belong together, and "
            f"{shown(statistic)} and {shown(measure)} do not; choose another one of the two."
        )
    if "at" in fields and len(fields["at"]) != len(fields["rows"]):
        raise UserError(f"{where}: at must have a number for each of rows.")
    claim = Claim(
        name=name,
        text=table.take("text", str),
        source=table.take("source", str),
        statistic=statistic,
        measure=measure,
        bounds=_bounds(table),
        suite=table.take("suite", str, suites[0]),
        pair=table.take("pair", str, ""),
        full=table.take("full", str, ""),
        printed=table.take("printed", str, ""),
        **fields,
    )
    if claim.suite not in suites:
        raise UserError(f"{where}: suite must be one of the study's, {listed(suites)}, not {shown(claim.suite)}.")
    table.finish()
    return claim


def _bounds(table: Table) -> Bounds:
    """What is claimed: ``above`` a number, ``below`` one, or both."""
    low, high = (table.take(name, (int, float), None) for name in ("above", "below"))
    if low is None and high is None:
        raise UserError(f"{table.where}: say above or below which number it lies if the claim holds.")
    bounds = Bounds(-math.inf if low is None else float(low), math.inf if high is None else float(high))
    if not bounds.low < bounds.high:
        raise UserError(f"{table.where}: above must be less than below.")
    return bounds
