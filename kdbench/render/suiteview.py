"""A suite as one table of rows and pairs, with its protocol in full and everything that went wrong."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kdbench.plan.expand import Selection, inapplicable
from kdbench.records.gains import ALONE
from kdbench.render import measured
from kdbench.render.catalogue import Catalogue, split, spread
from kdbench.render.content import outline
from kdbench.render.dots import Axis, Dot, axis
from kdbench.render.measured import Line, Table
from kdbench.render.speeds import Speed, speeds
from kdbench.stats import aggregate
from kdbench.stats.across import Across, across
from kdbench.stats.aggregate import NO_TEACHER, Cell, Record, protocol
from kdbench.stats.intervals import Interval
from kdbench.stats.placing import Placing, placing
from kdbench.stats.standings import Standing, Standings, whole_rows
from kdbench.stats.versus import meeting
from kdbench.suites import Suite, installed_suite, rung_of

Column = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One row of the suite over its pairs.

    ``covered`` counts pairs with a gain; of the student alone, and where that is on none of them, with a score.
    ``standing``: how it stands among the rows that cover every pair; None where it does not. ``seeds``: its mean gains,
    seed by seed.
    """

    label: str
    method: str
    evidence: str
    kind: str
    lines: Mapping[Column, Sequence[Line]]
    gain: Interval | None
    covered: int
    badges: tuple[tuple[str, str], ...]
    standing: Standing | None = None
    dot: Dot | None = None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class SuiteView:
    """``installed`` is the suite's own file where this copy of kdbench has that version; records alone suffice.

    ``tables`` are of the pairs that the suite plans, where it is known and any of them was measured; ``others`` are of
    those that somebody added, and count in nothing else here. Everything but ``contributed`` and ``notes`` is of what
    was measured, where there is any of that.
    """

    name: str
    installed: Suite | None
    selection: str
    tables: tuple[Table, ...]
    others: tuple[Table, ...]
    rows: tuple[Row, ...]
    contributed: tuple[Row, ...]
    axis: Axis
    standings: Standings
    across: Across | None
    placing: Placing | None
    speeds: tuple[Speed, ...]
    protocol: tuple[tuple[str, list[tuple[str, list[str]]]], ...]
    outline: str
    statuses: Mapping[str, int]
    #: Its measured records, those on pairs that it does not plan apart.
    recorded: int
    seeds: tuple[int, ...]
    notes: tuple[tuple[str, list[str]], ...]
    problems: tuple[str, ...]
    inapplicable: tuple[tuple[str, str, str], ...]

    @property
    def short(self) -> bool:
        """By the version at hand, whichever this one is: a suite that trains little does so in all of them."""
        return self.known is not None and self.known.short

    @cached_property
    def known(self) -> Suite | None:
        """The suite in whatever version is at hand; without one nothing says whether it trains in full."""
        return self.installed or installed_suite(self.rung_of or self.name.partition("@")[0])

    @property
    def rung_of(self) -> str | None:
        """The suite whose hyper-parameters this one is a step of choosing."""
        return rung_of(self.name)

    @property
    def judged(self) -> bool:
        """Whether its rows are ranked, and set against one another: those of a rung are by held-out images alone."""
        return self.rung_of is None

    @property
    def alone(self) -> bool:
        """Whether it has a row of the student alone."""
        return any(row.kind == "baseline" for row in self.rows)

    @property
    def gained(self) -> bool:
        """Whether any gain is known, which takes a student alone."""
        return any(row.gain is not None or row.kind == "baseline" for row in (*self.rows, *self.contributed))

    @cached_property
    def newer(self) -> Suite | None:
        """The later version of it that is at hand."""
        version = self.name.partition("@")[2]
        return self.known if self.known and version.isdigit() and int(version) < self.known.version else None

    @property
    def planned(self) -> int:
        """Of how many pairs the suite is to be."""
        return max(self.measured_pairs or len(self.tables), len(self.installed.pairs) if self.installed else 0)

    @property
    def methods(self) -> int:
        """How many different methods the rows are made of; several may share one, and the student alone is none."""
        return len({row.method for row in self.rows}.difference(ALONE))

    @property
    def trials(self) -> int:
        return sum(self.statuses.values())

    @property
    def again(self) -> int:
        """How many records are of a trial that has another one."""
        return self.recorded - self.trials

    @cached_property
    def measured_pairs(self) -> int:
        """How many pairs something was measured on; of the others there are contributed rows alone."""
        return sum(bool(table.lines) for table in self.tables)

    @cached_property
    def best(self) -> list[Row]:
        """The three rows of the largest mean gain among those that cover every pair and whose gain is no chance.

        It may be where other seeds or other test images may well have none, and where the row is not shown to differ
        from the student alone, all comparisons of the suite together: the best of many rows gains by chance. No rank is
        meant.
        """
        whole = [r for r in self.rows if r.kind == "measured" and r.covered == self.measured_pairs]
        return [row for row in whole if _resolved(row) and self._differs(row)][:3]

    def _differs(self, row: Row) -> bool:
        alone = next((found.label for found in self.standings.rows if found.kind == "baseline"), "")
        met = meeting(self.standings, row.label, alone)
        return met is not None and met.apart


def _resolved(row: Row) -> bool:
    """Whether the whole interval of its gain is above zero: over images, too, where that is known."""
    found = (row.standing and row.standing.gain_on_images) or row.gain
    return found is not None and found.low is not None and found.low > 0


def suite_view(catalogue: Catalogue, name: str) -> SuiteView:
    installed = installed_suite(name)
    tables, others = _as_planned(installed, catalogue.tables_of(name))
    every = [line for table in tables for line in table.every]
    lines = [line for line in every if line.cell.measured] or every
    counted = {id(record) for line in every if line.cell.measured for record in line.cell.records}
    records = [record for record in catalogue.measured if id(record) in counted]
    apart = [line for table in others if split(table.pair)[0] == NO_TEACHER for line in table.every]
    shown = counted | {id(record) for line in apart if line.cell.measured for record in line.cell.records}
    all_of_it = [record for record in catalogue.measured if id(record) in shown]
    selection = tables[0].selection
    found, rows = standing_rows(catalogue, tables, selection)
    alone = next((row.label for row in found.rows if row.kind == "baseline"), None)
    whole = whole_rows(line.cell for line in lines)
    ours = [row for row in rows if row.evidence == "measured"]
    shared = axis([row.gain for row in ours if row.gain], 0.0)
    notes: dict[str, dict[str, None]] = defaultdict(dict)
    for line in every:
        for text in line.notes:
            where = f"{line.cell.label} on {line.cell.pair}" + ("" if line.cell.measured else " (contributed)")
            notes[text][where] = None
    compared = {row.label: whole[row.label] for row in found.rows}
    return SuiteView(
        name=name,
        installed=installed,
        selection=selection,
        tables=tables,
        others=others,
        rows=tuple(dataclasses.replace(r, dot=shared.dot(r.gain, r.kind)) if r.gain else r for r in ours),
        contributed=tuple(row for row in rows if row.evidence != "measured"),
        axis=shared,
        standings=found,
        across=across(compared, selection, alone),
        placing=placing(compared, selection, found.comparisons),
        speeds=tuple(speeds(records)),
        protocol=tuple(_protocol(lines)),
        outline=suite_outline(lines),
        statuses=_statuses(all_of_it),
        recorded=len(all_of_it),
        seeds=tuple(sorted({r["seed"] for r in records})),
        notes=tuple((text, list(places)) for text, places in notes.items()),
        problems=tuple(p.text for p in catalogue.problems if p.suite == name),
        inapplicable=tuple(_inapplicable(installed, tables, records)),
    )


def _statuses(records: Iterable[Record]) -> dict[str, int]:
    """How many trials ended how: one that was run again counts once, as finished where it ever did."""
    found: dict[str, str] = {}
    for record in records:
        if found.get(record["key"]) != "finished":
            found[record["key"]] = record["status"]
    return dict(sorted(Counter(found.values()).items()))


def _as_planned(suite: Suite | None, tables: Sequence[Table]) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
    """The ``tables`` of pairs that ``suite`` plans, and the others, which must not count against rows without them.

    Students alone, before any other row was measured, are of no pair yet; nor are those later that were shown other
    labels than all rows with a teacher.
    """
    if suite is None:
        return tuple(tables), ()
    pairs = {(pair.dataset, pair.name) for pair in suite.pairs}
    alone = {(pair.dataset, f"{NO_TEACHER}:{split(pair.name)[1]}") for pair in suite.pairs}
    for planned in (pairs, alone):
        if ours := tuple(table for table in tables if (table.dataset, table.pair) in planned):
            return ours, tuple(table for table in tables if table not in ours)
    return tuple(tables), ()


def _inapplicable(
    suite: Suite | None, tables: Sequence[Table], records: Sequence[Record]
) -> list[tuple[str, str, str]]:
    """(row, pair, reason) of what was planned around on the pairs shown, and of what turned out when it was built."""
    shown = {table.pair for table in tables}
    planned = [] if suite is None else [found for found in inapplicable(suite, Selection()) if found[1] in shown]
    built = {(r["label"], r["pair"], r["detail"].rstrip(".")) for r in records if r["status"] == "inapplicable"}
    return planned + sorted(built)


def suite_outline(lines: Sequence[Line]) -> str:
    """The commonest protocol of ``lines`` in one line."""
    texts = Counter(outline(protocol(line.cell)) for line in lines)
    first, *others = (text for text, _ in texts.most_common())
    several = "other protocol" if len(others) == 1 else "other protocols"
    return f"{first}; {len(others)} {several} for some rows" if others else first


def standing_rows(catalogue: Catalogue, tables: Sequence[Table], selection: str) -> tuple[Standings, list[Row]]:
    """How the measured rows of ``tables``, which are of one suite, stand; and all rows, best mean gain first."""
    found = catalogue.standings_over(tuple(tables))
    return found, _rows(tables, selection, {row.label: row for row in found.rows})


def _rows(tables: Sequence[Table], selection: str, standing: Mapping[str, Standing]) -> list[Row]:
    places: dict[tuple[str, str], dict[Column, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for table in tables:
        for line in table.every:
            places[line.cell.label, line.cell.evidence][table.dataset, table.pair].append(line)
    students = {(t.dataset, t.pair): aggregate.students(line.cell for line in t.every) for t in tables}
    gained = any(line.gain for lines in places.values() for group in lines.values() for line in group)
    rows = []
    for (label, evidence), lines in places.items():
        first = next(iter(lines.values()))[0]
        against = [
            (only[0].cell, base)
            for column, only in lines.items()
            if len(only) == 1 and only[0].gain and (base := aggregate.baseline(only[0].cell, students[column]))
        ]
        alone = first.kind == "baseline"
        stands = standing.get(label) if evidence == "measured" else None
        rows.append(
            Row(
                label=label,
                method=first.cell.method,
                evidence=evidence,
                kind=first.kind,
                lines=dict(lines),
                gain=None
                if alone
                else stands.gain
                if stands and stands.gain
                else aggregate.mean_gain(against, "top1", selection),
                seeds=tuple(aggregate.gains_by_seed(against, "top1", selection).values()),
                covered=len(against)
                if gained and not alone
                else sum(any(line.top1 for line in group) for group in lines.values()),
                standing=stands,
                badges=tuple(dict.fromkeys(b for group in lines.values() for line in group for b in line.badges)),
            )
        )
    return sorted(rows, key=_best_first)


def _best_first(row: Row) -> tuple[int, bool, float, str]:
    """Complete rows first, of them those that share a student alone, which stands where its gain of zero belongs."""
    gain = 0.0 if row.kind == "baseline" else row.gain.mean if row.gain else float("-inf")
    return (-row.covered, row.standing is None, -gain, row.label)


def _protocol(lines: Sequence[Line]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Every planned setting that all rows share by its kind: field -> [(value, where it is so)].

    That is a pair, or rows of it where not all are alike, and nothing where it is so everywhere.
    """
    lines_of = Counter(line.cell.pair for line in lines)
    fields: dict[str, list[tuple[Cell, str]]] = defaultdict(list)
    for line in lines:
        record = line.cell.records[0]
        parts = {part: record["identity"].get(part) for part in ("data", "protocol", "supervision", "engine")}
        for name, value in measured.flatten(parts).items():
            fields[name.removeprefix("protocol.")].append((line.cell, value))
    found = []
    for name, values in fields.items():
        everywhere = len(values) == len(lines) and len({value for _, value in values}) == 1
        said = spread(_where(values, lines_of))
        found.append((name, [(value, [] if everywhere else where) for value, where in said]))
    return found


def _where(values: Sequence[tuple[Cell, str]], lines_of: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(where, value) for the ``values`` of cells: the pair, or the row where most of its ``lines_of`` have another."""
    by_pair: dict[str, Counter[str]] = defaultdict(Counter)
    for cell, value in values:
        by_pair[cell.pair][value] += 1
    for cell, value in values:
        n, lines = by_pair[cell.pair][value], lines_of[cell.pair]
        most = f"most rows of {cell.pair}" if n < lines else cell.pair
        yield (most if 2 * n > lines else f"{cell.label} on {cell.pair}"), value
