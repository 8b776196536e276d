"""A row of a suite with every trial behind it: what was planned, where and when it ran, which files hold it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.records.verify import Seen
from kdbench.render.address import place_anchor
from kdbench.render.calibration import calibration
from kdbench.render.catalogue import Catalogue, split
from kdbench.render.curves import curves
from kdbench.render.measured import Line, Table
from kdbench.render.plot import Figure
from kdbench.render.texts import number
from kdbench.stats.aggregate import SELECTIONS, Record
from kdbench.stats.standings import Standing
from kdbench.studies.measures import MEASURES
from kdbench.suites import Suite, installed_suite, rung_of


@dataclass(frozen=True)
class Attempt:
    """One record as a line of a table: its scores by selection and epoch, its provenance, its files.

    ``measures``: what studies read of it, in words, with its unit.
    """

    record: Record
    measures: tuple[tuple[str, str], ...] = ()

    @property
    def scores(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(name, score) for name in SELECTIONS if (score := self.record["scores"].get(name))]

    @property
    def code(self) -> str:
        made = self.record["provenance"]
        changed = " with changes" if made["git_dirty"] else ""
        return f"{made['kdbench']}, commit {made['git_sha'][:12]}{changed}" if made["git_sha"] else made["kdbench"]

    @property
    def machine(self) -> str:
        numerics = self.record["numerics"] or {}
        return ", ".join(str(numerics[name]) for name in ("device_name", "isa", "driver") if numerics.get(name))

    @property
    def predictions(self) -> str:
        found = self.record["predictions"]
        return "" if found is None else f"v1/predictions/{found['sha256']}.npz"


@dataclass(frozen=True)
class Section:
    """A line of the row: what it has on one pair, in one configuration; ``plan``: what is not planned for all alike.

    ``places`` are the table with its address on the page, and those of further pairs that show the very same trials
    with the same gain: of students alone.
    """

    table: Table
    places: tuple[tuple[Table, str], ...]
    line: Line
    plan: Mapping[str, str]
    attempts: tuple[Attempt, ...]
    plots: tuple[Figure, ...]


@dataclass(frozen=True)
class RowPage:
    suite: str
    label: str
    method: str
    evidence: str
    standing: Standing | None
    plan: Mapping[str, str]
    sections: tuple[Section, ...]
    command: str

    @property
    def code(self) -> str:
        """What trained its last trial."""
        attempts = (attempt for section in self.sections for attempt in section.attempts)
        return max(attempts, key=lambda attempt: str(attempt.record["provenance"]["created"])).code

    def document(self) -> dict[str, Any]:
        """The page as plain data, for those who would rather not read HTML."""
        return {
            "suite": self.suite,
            "label": self.label,
            "method": self.method,
            "evidence": self.evidence,
            "command": self.command,
            "trials": [_trial(section, attempt.record) for section in self.sections for attempt in section.attempts],
        }


def row_pages(
    catalogue: Catalogue, suite: str, tables: Sequence[Table], others: Sequence[Table] = (), studied: bool = False
) -> Iterator[RowPage]:
    """A page for each row of ``suite``; what is contributed under a label has one of its own.

    ``others`` are of pairs that the suite does not plan: a row has its trials there, too, and no standing. Where the
    suite is ``studied``, each trial says what a study reads of it.
    """
    found: dict[tuple[str, str], list[tuple[Table, Line]]] = {}
    for table in (*tables, *others):
        for line in table.every:
            found.setdefault((line.cell.label, line.cell.evidence), []).append((table, line))
    standing = {row.label: row for row in catalogue.standings_over(tuple(tables)).rows}
    planned = installed_suite(suite)
    for (label, evidence), places in sorted(found.items()):
        plans = [line.plan for _, line in places]
        shared = {name: value for name, value in plans[0].items() if all(plan.get(name) == value for plan in plans)}
        alike: dict[object, list[tuple[Table, Line, Mapping[str, str]]]] = {}
        for (table, line), plan in zip(places, plans, strict=True):
            own = {name: value for name, value in plan.items() if name not in shared}
            whose = frozenset((record["key"], record.get("file")) for record in line.cell.records), line.gain
            alike.setdefault(whose, []).append((table, line, own))
        taken: set[str] = set()
        sections = [  # one row's plots at a time
            _section(group, _anchors((table for table, _, _ in group), taken), catalogue.seen, studied)
            for group in alike.values()
        ]
        yield RowPage(
            suite=suite,
            label=label,
            method=sections[0].line.cell.method,
            evidence=evidence,
            standing=standing.get(label) if evidence == "measured" else None,
            plan=shared,
            sections=tuple(sections),
            command=_command(suite, planned, label, sections),
        )


def _anchors(tables: Iterable[Table], taken: set[str]) -> list[str]:
    """The addresses of ``tables`` on the page; one that is ``taken``, by another configuration, has a number more."""
    found = []
    for table in tables:
        plain = anchor = place_anchor(table.dataset, table.pair)
        while anchor in taken:
            anchor = f"{plain}-{len(taken)}"
        taken.add(anchor)
        found.append(anchor)
    return found


def _section(
    group: Sequence[tuple[Table, Line, Mapping[str, str]]], anchors: Sequence[str], seen: Seen, studied: bool
) -> Section:
    table, line, plan = group[0]
    plots = curves(line.cell, table.selection), calibration(line, table.selection, seen)
    right = seen.right(table.selection)
    attempts = tuple(
        Attempt(record, tuple(_measures({**record, "right": right(record)}, table.selection)) if studied else ())
        for record in line.cell.records
    )
    places = tuple(zip((shown for shown, _, _ in group), anchors, strict=True))
    return Section(table, places, line, plan, attempts, tuple(plot for plot in plots if plot))


def _measures(record: Record, selection: str) -> Iterator[tuple[str, str]]:
    if record["status"] != "finished":
        return
    for measure in MEASURES.values():
        value = measure.read(record, selection)
        if math.isfinite(value):
            yield f"{measure.title.rstrip(',')} ({measure.unit})", number(value, measure.digits)


def _command(suite: str, planned: Suite | None, label: str, sections: Sequence[Section]) -> str:
    """What trains the row anew on the pairs that it is shown on, under every seed it has."""
    if (tuned := rung_of(suite)) is not None:
        return shlex.join(["kdbench", "tune", tuned])
    parts = ["kdbench", "run", "--suite", suite, "--method", label, "--again", label]
    pairs = dict.fromkeys(table.pair for section in sections for table, _ in section.places)
    teacherless = all(split(record["pair"])[0] == "none" for s in sections for record in s.line.cell.records)
    everywhere = planned is not None and pairs.keys() == {pair.name for pair in planned.pairs}
    if not teacherless and not everywhere:
        for pair in pairs:
            parts += ["--pair", pair]
    return shlex.join(parts)


def _trial(section: Section, record: Record) -> dict[str, Any]:
    names = ("dataset", "pair", "seed", "stream", "status", "detail", "config", "scores", "cost", "numerics")
    more = ("provenance", "warnings", "key", "weights_sha256", "predictions")
    return {
        "shown_on": [table.pair for table, _ in section.places],
        "file": record.get("file"),
        **{name: record[name] for name in (*names, *more)},
        "identity": record["identity"],
    }


def as_json(document: object) -> str:
    """JSON that reads the same whoever writes it; no number in it is infinite. In one line: indents take long."""
    return json.dumps(document, sort_keys=True, default=str, allow_nan=False) + "\n"
