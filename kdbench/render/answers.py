"""What a pair's page says first: which methods are best supported, on what evidence, and what would tell more."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from kdbench.data import DATASETS
from kdbench.methods import METHODS
from kdbench.records.gains import ALONE, weak_sources
from kdbench.records.implementations import implementation, one_name
from kdbench.records.literature import Reported
from kdbench.records.reported import as_accuracy, comparable, contradictions, gain
from kdbench.render.catalogue import Catalogue, PairName, components, outdated, own_names, version
from kdbench.render.measured import Line, Table
from kdbench.render.suiteview import SuiteView
from kdbench.stats.aggregate import NO_TEACHER, Cell, Spread, cost
from kdbench.stats.evidence import EPOCH, Evidence, Measured, Printed, Ties, best_supported, leading, ranked, ties
from kdbench.stats.standings import Standings
from kdbench.suites import Suite, parsed_suites, rung_of

#: What a grade of evidence is called.
GRADE_NAMES = {
    "measured": "measured here",
    "re-run": "re-run by others",
    "measured short": "measured here, short",
    "authors": "authors only",
    "quoted": "quoted only",
}


#: Rows that a command names one by one.
MOST_NAMED = 12
#: What a method may need beside the logits of the teacher, in words.
NEEDS = {
    "stages": "feature maps of stages",
    "pooled": "pooled features",
    "pooled_map": "the last feature map",
    "preacts": "maps before the activation",
    "stem": "the map after the stem",
    "teacher_head": "the teacher's classifier",
}


@dataclass(frozen=True)
class SuiteVerdict:
    """Who may be best in one suite, in order of accuracy; ``runs`` says how to add what the suite has and lacks."""

    table: Table
    view: SuiteView
    standings: Standings
    best: tuple[tuple[Evidence, Measured], ...]

    @property
    def seeds(self) -> int:
        return max((row.n for row in self.standings.rows), default=0)

    @property
    def tied(self) -> int:
        """How many rows nothing is shown to be better than: the student alone and rows of other settings, too."""
        return sum(row.rank[0] == 1 for row in self.standings.rows)


@dataclass(frozen=True)
class Option:
    """A line of the evidence on a pair: a method, what it needs beside labels, and what it costs where that is known.

    ``cost`` is the median over this pair's records, or else over all on its data set of the method that
    ``elsewhere`` names.
    ``passes`` are the epochs, times the protocol's, and the views of each image together: about the least it can cost.
    ``costs_known``: of some method a cost was measured on the data set.
    """

    evidence: Evidence
    needs: tuple[str, ...]
    cost: Spread | None
    elsewhere: str | None
    implemented: bool
    passes: float | None = None
    costs_known: bool = False

    @property
    def least(self) -> float | None:
        """What a budget must allow, as it is shown: the cost; where none was measured of any method, the passes."""
        if self.cost is not None:
            return round(self.cost.middle, 2)
        return None if self.costs_known else self.passes


@dataclass(frozen=True)
class Run:
    """A command that adds evidence, and what for."""

    purpose: str
    command: str


@dataclass(frozen=True)
class Answer:
    """``enough``: something was measured here or re-run by others, so that there is an answer at all."""

    pair: PairName
    suites: tuple[SuiteVerdict, ...]
    options: tuple[Option, ...]
    contradictions: int
    sources: tuple[str, ...]
    #: Those whose gains are left out.
    weak: tuple[str, ...]
    runs: tuple[Run, ...]
    #: Measures one method; empty where no suite has the pair.
    command: str

    @cached_property
    def enough(self) -> bool:
        return any(option.evidence.grade in ("measured", "re-run") for option in self.options)

    @cached_property
    def ties(self) -> list[Ties]:
        """How each of the options stands to the others."""
        return ties([option.evidence for option in self.options])

    @cached_property
    def leading(self) -> list[Option]:
        """The option with the best evidence, and those not told from it; empty where it does not help."""
        best = leading([option.evidence for option in self.options], self.ties) if self.enough else []
        return [self.options[place] for place in best] if best and self.options[best[0]].evidence.helps else []

    @property
    def more(self) -> list[Option]:
        """Options of a lesser grade whose authors or quotes print more than the best-supported one has, most first."""
        first = self.leading[0] if self.leading else self.options[0] if self.enough else None
        if first is None:
            return []
        said = (o for o in self.options if o.evidence.grade in ("authors", "quoted"))
        return sorted(
            (o for o in said if o.evidence.gain >= first.evidence.middle + EPOCH), key=lambda o: -o.evidence.gain
        )

    @property
    def hint(self) -> Option | None:
        """What is known to gain though the evidence is not enough."""
        first = self.options[0] if self.options else None
        return first if first is not None and not self.enough and first.evidence.helps else None


def answers(catalogue: Catalogue, views: Mapping[str, SuiteView]) -> dict[PairName, Answer]:
    """The answer of every pair that has a teacher."""
    tables: dict[str, list[Table]] = defaultdict(list)
    for table in catalogue.tables.values():
        tables[table.dataset].append(table)
    # A network twenty times as large makes another cost of the same method: only pairs of one data set have one.
    costs = {dataset: _costs(found) for dataset, found in tables.items()}
    return {
        pair: _answer(catalogue, pair, views, costs.get(pair[0], {}))
        for pair in catalogue.pairs
        if pair[1] != NO_TEACHER
    }


def _answer(
    catalogue: Catalogue, pair: PairName, views: Mapping[str, SuiteView], costs: Mapping[str, Spread]
) -> Answer:
    every = catalogue.measured_by_pair.get(pair, [])
    tables = [table for table in every if rung_of(table.suite) is None]  # the others have random hyper-parameters
    rows = catalogue.reported_by_pair.get(pair, [])
    measured: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    old = outdated(tables)
    here = _costs(every)
    newer: set[tuple[str, tuple[str, str]]] = set()
    for table, lines in _with_their_lines(tables):
        found = catalogue.standings_of(table)
        suite, _ = version(table.suite)
        for name, line in sorted(lines.items()):
            place = found.places.get(line.cell.label)
            if table.suite in old and (suite, name) in newer:
                continue
            if place is not None and (standing := found.rows[place]).kind == "measured":
                newer.add((suite, name))
                short = views[table.suite].short or views[table.suite].known is None
                measured[name].append(Measured(table.suite, short, len(found.rows), standing))
    weak = weak_sources(rows)
    evidence = ranked(measured, _printed(catalogue, rows, weak))
    suites = tuple(
        SuiteVerdict(
            table, views[table.suite], catalogue.standings_of(table), tuple(best_supported(evidence, table.suite))
        )
        for table in tables
        if table.suite not in old
    )
    return Answer(
        pair=pair,
        suites=suites,
        options=tuple(_option(catalogue, each, here, costs) for each in evidence),
        contradictions=len({found.method for found in contradictions(rows)}),
        sources=tuple(sorted({source for each in evidence for source in each.sources})),
        weak=weak,
        runs=tuple(_runs(pair, suites, _best_first(evidence))),
        command="" if (planned := _planned(pair)) is None else f"{_command(*planned, ('ce',))} --method NAME",
    )


def _best_first(evidence: Sequence[Evidence]) -> list[Evidence]:
    """``evidence``, those first that lead and what is level with them."""
    return [*(evidence[place] for place in leading(evidence, ties(evidence))), *evidence]


def _with_their_lines(tables: Sequence[Table]) -> list[tuple[Table, dict[tuple[str, str], Line]]]:
    """Each table with the line of each method that was measured with its own settings, by (method, "").

    That is the row of its name, or else the only one. Of a method that none of ``tables`` has so, every setting is its
    own choice: its lines are there by (method, row).
    """
    found: list[tuple[Table, dict[tuple[str, str], Line]]] = []
    settings: list[dict[tuple[str, str], Line]] = []
    for table in tables:
        by_method: dict[str, list[Line]] = defaultdict(list)
        for line in table.lines:
            if line.kind == "measured":
                by_method[line.cell.method].append(line)
        own = {name: [line for line in lines if line.cell.label == name] or lines for name, lines in by_method.items()}
        found.append((table, {(name, ""): lines[0] for name, lines in own.items() if len(lines) == 1}))
        several = [(name, line) for name, lines in own.items() if len(lines) > 1 for line in lines]
        labels = Counter(line.cell.label for _, line in several)
        settings.append({(name, line.cell.label): line for name, line in several if labels[line.cell.label] == 1})
    as_it_comes = {name for _, lines in found for name, _ in lines}
    for (_, lines), more in zip(found, settings, strict=True):
        lines.update({key: line for key, line in more.items() if key[0] not in as_it_comes})
    return found


def _printed(catalogue: Catalogue, rows: Iterable[Reported], weak: Collection[str]) -> dict[str, list[Printed]]:
    found: dict[str, list[Printed]] = defaultdict(list)
    for row in map(as_accuracy, comparable(rows)):
        if row.source in weak:
            continue
        gained = gain(row)
        name = one_name(row.method)
        if row.metric == "top1" and gained is not None and name not in ALONE:
            work = catalogue.literature.sources[row.source].work
            found[name].append(Printed(row.source, gained, _by(catalogue, row), work))
    return found


def _by(catalogue: Catalogue, row: Reported) -> str:
    """Who found a printed number: the method's authors, others, or somebody whom the source quotes."""
    if row.provenance == "quoted":
        return "quoted"
    source = catalogue.literature.sources[row.source]
    own = source.proposes.split()
    for name in (row.method, *components(row.method)):
        card = catalogue.cards.get(name)
        known = card.paper if card is not None and not card.contributed else None
        paper = "" if known is None else known["identifier"]
        if name in own or (paper and paper == source.identifier):
            return "authors"
    if own:
        return "re-run"
    ran = {other.source for other in catalogue.reported_by_method[row.method] if other.provenance != "quoted"}
    return "authors" if len(ran) == 1 and row.method not in catalogue.cards else "re-run"


def _costs(tables: Iterable[Table]) -> dict[str, Spread]:
    """The middle of each method's costs in ``tables``, over all trials whatever their settings, and their range."""
    found: dict[str, dict[str, Cell]] = defaultdict(dict)
    for table in tables:
        for line in table.lines:
            if line.kind == "measured":
                found[line.cell.method].update((record["key"], line.cell) for record in line.cell.records[:1])
    spreads = {name: cost(cells.values(), "ratio_to_ce") for name, cells in found.items()}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def _option(
    catalogue: Catalogue, evidence: Evidence, here: Mapping[str, Spread], costs: Mapping[str, Spread]
) -> Option:
    trained = implementation(evidence.method) or evidence.method
    card = catalogue.card_of(trained)
    card = None if card is not None and card.contributed else card
    own = here.get(trained)
    return Option(
        evidence=evidence,
        needs=() if card is None else tuple(need for need in card.needs if need != "teacher"),
        cost=own or costs.get(trained),
        elsewhere=trained if own is None and trained in costs else None,
        implemented=card is not None,
        passes=None if card is None else card.passes,
        costs_known=bool(here or costs),
    )


def _runs(pair: PairName, suites: Sequence[SuiteVerdict], evidence: Sequence[Evidence]) -> Iterable[Run]:
    """What would tell more: untold ties in a suite, and measuring what is only printed."""
    for verdict in suites:
        if verdict.view.installed is not None and len(verdict.best) > 1:
            names = tuple(measured.standing.label for _, measured in verdict.best)
            named = () if len(names) > MOST_NAMED else ("ce", *names)  # all of the suite's
            command = f"{_command(verdict.view.installed, verdict.table.pair, named)} --until-decided 10"
            yield Run(f"adds seeds in {verdict.table.suite} until the tie is told apart, or ten are used up", command)
    suite, name = _planned(pair) or (None, "")
    if suite is None and not suites and (like := _like(pair[0])) is not None:
        purpose = (
            f"no suite at hand has this pair; this writes one of {pair[0]} as a file, in which to name its teacher and "
            "student for kdbench run --suite mine.toml"
        )
        yield Run(purpose, f"kdbench show {shlex.quote(like.name)} --toml > mine.toml")
    if suite is not None and all(verdict.view.name != suite.id for verdict in suites):
        labels = [row.label for row in suite.rows if row.stream == 0]
        known = dict.fromkeys(e.label for e in evidence if e.label in labels or e.label in METHODS)
        wanted = [*known][:6] or labels[:4]
        rows = tuple(dict.fromkeys(("ce", *wanted)))
        purpose = (
            f"measures the first of them, whatever they need, in {suite.id}, {suite.title}: "
            f"{len(rows) * len(suite.seeds)} trainings of "
            f"{suite.protocol.epochs} epochs (--dry-run tells their time on your machine, {_fetched(pair[0])})"
        )
        yield Run(purpose, _command(suite, name, rows))
    if suite is not None and suite.short:
        purpose = (
            "no suite at hand trains this pair in full; this writes one as a file, in which to raise its epochs "
            "for kdbench run --suite full.toml"
        )
        yield Run(purpose, f"kdbench show {shlex.quote(suite.name)} --toml > full.toml")


def _fetched(dataset: str) -> str:
    known = dataset in DATASETS and (not DATASETS.get(dataset).needs_files or DATASETS.get(dataset).downloadable)
    return "--download fetches data and weights" if known else "--download fetches weights; the data is yours to bring"


def _command(suite: Suite, pair: str, methods: Sequence[str]) -> str:
    parts = ["kdbench", "run", "--suite", suite.name, "--pair", pair]
    for method in methods:
        parts += ["--method", method]
    return shlex.join(parts)


def _planned(pair: PairName) -> tuple[Suite, str] | None:
    """The suite that has ``pair``, one at full length where there is any, and its name for it."""
    return _suites_by_pair().get(pair)


@cache
def _suites() -> tuple[Suite, ...]:
    return tuple(parsed_suites())


@cache
def _like(dataset: str) -> Suite | None:
    """The longest suite of ``dataset``."""
    found = (suite for suite in _suites() if dataset in {pair.dataset for pair in suite.pairs})
    return min(found, key=lambda suite: (suite.short, -suite.protocol.epochs, suite.name), default=None)


@cache
def _suites_by_pair() -> dict[PairName, tuple[Suite, str]]:
    found: dict[PairName, tuple[Suite, str]] = {}
    for suite in sorted(_suites(), key=lambda suite: (suite.short, suite.name)):
        for pair in suite.pairs:
            names = own_names(suite.name, pair.name, (suite.teacher_of(pair).model, pair.student))
            found.setdefault((pair.dataset, *names), (suite, pair.name))
    return found
