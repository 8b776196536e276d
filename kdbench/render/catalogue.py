"""All that a site shows, gathered once: verified cells, reported rows, cards, and who is linked with whom."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property

from kdbench.methods import METHODS
from kdbench.models import MODELS
from kdbench.records.implementations import implementation, one_name
from kdbench.records.literature import Literature, Reported
from kdbench.records.verify import Problem, Record, Seen
from kdbench.render import measured
from kdbench.render.cards import Card, card, newest
from kdbench.render.measured import Line, Table
from kdbench.stats.aggregate import NO_TEACHER, Cell, cells, ranking_selection
from kdbench.stats.standings import Standings, standings

#: data set, teacher, student; a name that is no model's says after an @ which suite means what by it
PairName = tuple[str, str, str]


#: The day of what has none; sorts before every other.
UNDATED = ""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class Catalogue:
    """``records`` are the students' verified ones, ``trainings`` the teachers' own; ``count`` is how many were read.

    ``measured`` are those that were made here; contributed ones count nowhere but in rows of their own. ``built`` is
    the day on which the site is, where that is said.
    """

    records: Sequence[Record]
    problems: Sequence[Problem]
    literature: Literature
    count: int
    seen: Seen = field(default_factory=Seen)
    trainings: Sequence[Record] = ()
    built: str = ""

    @cached_property
    def measured(self) -> list[Record]:
        return [record for record in self.records if record["evidence"] == "measured"]

    @cached_property
    def tables(self) -> dict[tuple[str, str, str], Table]:
        """The measured table of every (suite, data set, pair)."""
        by_suite: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells(self.records):
            by_suite[cell.suite].append(cell)
        reconstructions = frozenset(name for name, c in self.cards.items() if c.reconstruction)
        tables = {}
        for suite, members in by_suite.items():
            selection = ranking_selection(members)
            groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
            for cell in members:
                groups[cell.dataset, cell.pair].append(cell)
            for (dataset, pair), group in groups.items():
                names = dataset, *own_names(suite, pair, _models(group, pair), self.printed_names[dataset])
                tables[suite, dataset, pair] = measured.table(group, names, selection, reconstructions)
        return tables

    def standings_of(self, table: Table) -> Standings:
        """How the measured rows of one ``table`` stand among themselves."""
        place = table.suite, table.dataset, table.pair
        if place not in self._alone:
            self._alone[place] = self.standings_over((table,))
        return self._alone[place]

    def standings_over(self, tables: tuple[Table, ...]) -> Standings:
        """The same over ``tables``, which are of one suite."""
        place = tables[0].suite, tuple((table.dataset, table.pair) for table in tables)
        if place not in self._standings:
            selection = tables[0].selection
            cells = [line.cell for table in tables for line in table.lines]
            self._standings[place] = standings(cells, selection, self.seen.right(selection))
        return self._standings[place]

    @cached_property
    def _alone(self) -> dict[tuple[str, str, str], Standings]:
        return {}

    @cached_property
    def _standings(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], Standings]:
        return {}

    @cached_property
    def suites(self) -> list[str]:
        return sorted({suite for suite, _, _ in self.tables})

    @property
    def homeless(self) -> list[Problem]:
        """The problems of files of no suite, or of one that has no page."""
        suites = set(self.suites)
        return [problem for problem in self.problems if problem.suite not in suites]

    @cached_property
    def cards(self) -> dict[str, Card]:
        """The installed card of every registered method; for others, the newest that a record brought along.

        A measured one, where there is any.
        """
        brought: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            brought[record["method"]].append(record)
        found = {}
        for name in brought.keys() - set(METHODS):
            ours = [record for record in brought[name] if record["evidence"] == "measured"] or brought[name]
            contributed = ours[0]["evidence"] != "measured"
            found[name] = card(name, newest(record["method_card"] for record in ours), contributed)
        found.update({name: card(name, METHODS.get(name).describe()) for name in METHODS})
        return dict(sorted(found.items()))

    def card_of(self, method: str) -> Card | None:
        """The card of ``method``, which may be made of others that have one; None where nothing is known of it."""
        if method not in self._composed:
            known = self.cards.get(method)
            composed = known is None and method in METHODS
            self._composed[method] = card(method, METHODS.get(method).describe()) if composed else known
        return self._composed[method]

    @cached_property
    def _composed(self) -> dict[str, Card | None]:
        return {}

    @cached_property
    def methods(self) -> list[str]:
        """Every method that is registered, was measured, or is known from the literature."""
        return sorted(
            {*self.cards, *(name for row in self.literature.rows for name in (row.method, one_name(row.method)))}
        )

    @cached_property
    def single_methods(self) -> list[str]:
        """Those that are neither made of others nor another's settings or other name."""
        return [n for n in self.methods if components(n) == (n,) and implementation(n) in (None, n)]

    @cached_property
    def printed_names(self) -> Mapping[str, Collection[str]]:
        """What the literature calls its teachers and students on each data set."""
        found: dict[str, set[str]] = defaultdict(set)
        for row in self.literature.rows:
            found[row.dataset] |= {row.teacher, row.student}
        return found

    @cached_property
    def reported_by_pair(self) -> dict[PairName, list[Reported]]:
        found: dict[PairName, list[Reported]] = defaultdict(list)
        for row in self.literature.rows:
            found[row.dataset, row.teacher, row.student].append(row)
        return found

    @cached_property
    def reported_by_method(self) -> dict[str, list[Reported]]:
        """The rows that are printed under the name of a method, or under another word for it."""
        found: dict[str, list[Reported]] = defaultdict(list)
        for row in self.literature.rows:
            for name in dict.fromkeys((row.method, one_name(row.method))):
                found[name].append(row)
        return found

    @cached_property
    def measured_by_pair(self) -> dict[PairName, list[Table]]:
        """Those of versions of a suite of which a later one is there, too, come last."""
        found: dict[PairName, list[Table]] = defaultdict(list)
        for _, table in sorted(self.tables.items()):
            found[table.names].append(table)
        for tables in found.values():
            old = outdated(tables)
            tables.sort(key=lambda table: table.suite in old)
        return found

    @cached_property
    def lines_by_method(self) -> dict[str, list[tuple[Table, Line]]]:
        found: dict[str, list[tuple[Table, Line]]] = defaultdict(list)
        for _, table in sorted(self.tables.items()):
            for line in table.every:
                found[line.cell.method].append((table, line))
        return found

    @cached_property
    def pairs(self) -> list[PairName]:
        return sorted({*self.reported_by_pair, *self.measured_by_pair})

    @cached_property
    def latest(self) -> str:
        """When the newest record was made, as it says itself; empty without records whose day is known."""
        return max((str(record["provenance"]["created"]) for record in self.records if self.day(record)), default="")

    def day(self, record: Record) -> str:
        """The day on which it was made, as it says itself; UNDATED where no calendar has that, or it is yet to come."""
        found = _DAY.match(str(record["provenance"]["created"]))
        try:
            day = date.fromisoformat(found[0]).isoformat() if found else UNDATED
        except ValueError:
            return UNDATED
        return UNDATED if self.built and day > self.built else day

    @cached_property
    def digest(self) -> str:
        """Names this set of records: 12 hex digits of the sorted keys and prediction digests."""
        parts = sorted(f"{r['key']} {(r['predictions'] or {}).get('sha256')} {r['status']}" for r in self.records)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def tables_of(self, suite: str) -> list[Table]:
        return [table for (name, _, _), table in sorted(self.tables.items()) if name == suite]

    def combinations(self, method: str) -> list[str]:
        """The reported methods that combine ``method`` with others, as ``a+b``, or are another name for it."""
        return [n for n in self.methods if n != method and (method in components(n) or implementation(n) == method)]


def outdated(tables: Iterable[Table]) -> frozenset[str]:
    """The suites of ``tables`` of which a later version is among them that has finished trials of our own."""
    newest: dict[str, int] = {}
    versions = {table.suite: version(table.suite) for table in tables if any(line.top1 for line in table.lines)}
    for name, number in versions.values():
        newest[name] = max(number, newest.get(name, number))
    return frozenset(suite for suite, (name, number) in versions.items() if number < newest[name])


def version(suite: str) -> tuple[str, int]:
    """The name of ``suite`` and the number of its version; 0 where its name has none."""
    name, _, number = suite.partition("@")
    return name, int(number) if number.isdigit() else 0


def own_names(suite: str, pair: str, models: Collection[str], printed: Collection[str] = ()) -> tuple[str, str]:
    """Teacher and student of ``pair`` as the site calls them.

    What is named after none of the ``models`` behind the pair, and ``printed`` nowhere, is its ``suite``'s alone:
    another may call another network so.
    """
    known = {NO_TEACHER, *printed, *(name for model in models for name in _called(model))}
    teacher, student = (
        half if half in known and "@" not in half else f"{half}@{version(suite)[0]}" for half in split(pair)
    )
    return teacher, student


def _models(cells: Iterable[Cell], pair: str) -> set[str]:
    """The architectures behind the names of ``pair``, by what was measured here, where anything was."""
    cells = list(cells)
    ours = [cell for cell in cells if cell.measured] or cells
    records = (record for cell in ours for record in cell.records if record["pair"] == pair or not record["teacher"])
    return {model for record in records for model in (record["teacher_model"], record["student_model"]) if model}


@cache
def _called(model: str) -> frozenset[str]:
    """What a pair may call ``model``: its name, of a library's without that, and what tables print."""
    literature = MODELS.get(model).literature if model in MODELS else model
    return frozenset((model, model.rpartition("/")[2], literature))


def split(pair: str) -> tuple[str, str]:
    """Teacher and student of ``teacher:student``."""
    teacher, _, student = pair.partition(":")
    return teacher, student


@cache
def components(name: str) -> tuple[str, ...]:
    """The methods that a combined name such as ``kd+lskd(T=2,w_kd=9.0)`` is made of."""
    return tuple(re.sub(r"\(.*", "", part, flags=re.DOTALL) for part in re.split(r"\+(?![^(]*\))", name))


def spread(values: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(value, who has it) for pairs of (who, value), the commonest value first."""
    found: dict[str, list[str]] = defaultdict(list)
    for who, value in values:
        if who not in found[value]:
            found[value].append(who)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
