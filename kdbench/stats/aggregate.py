"""From records to the cells of a table: one method row on one pair of one suite, over its seeds."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import median
from types import MappingProxyType
from typing import Any

from kdbench.stats.intervals import Interval, t_interval

SELECTIONS = ("last", "best_val", "best_test")

#: The teacher half of the pair of a trial that uses no teacher.
NO_TEACHER = "none"

Record = Mapping[str, Any]

_NAMED = ("suite", "dataset", "pair", "label", "method", "stream", "evidence")


@dataclass(frozen=True)
class Cell:
    """Records that differ in nothing planned but the seed. ``pair`` is where the cell is shown.

    ``variant`` tells cells apart that share suite, pair and label but not their configuration; ``setting`` is what a
    student and its baseline must agree on: data, protocol, student, supervision.
    """

    suite: str
    dataset: str
    pair: str
    label: str
    method: str
    stream: int
    evidence: str
    setting: str
    variant: str
    records: tuple[Record, ...]

    @property
    def teacher(self) -> str:
        return self.pair.partition(":")[0]

    @property
    def student(self) -> str:
        return self.pair.partition(":")[2]

    @property
    def measured(self) -> bool:
        return self.evidence == "measured"

    @cached_property
    def finished(self) -> tuple[Record, ...]:
        return tuple(r for r in self.records if r["status"] == "finished")

    @property
    def statuses(self) -> dict[str, int]:
        """How many trials of the cell ended in each way."""
        return dict(sorted(Counter(r["status"] for r in self.records).items()))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({r["seed"] for r in self.records}))

    @cached_property
    def replicated(self) -> tuple[int, ...]:
        """Seeds of which more than one finished record is at hand: the same trial, run by several contributors."""
        count = Counter(r["seed"] for r in self.finished)
        return tuple(sorted(seed for seed, n in count.items() if n > 1))

    @property
    def numerics(self) -> tuple[str, ...]:
        """The different (torch, device, instruction set) of its finished trials; more than one deserves a flag."""
        return tuple(
            sorted({"torch {torch}, {device}, {isa}".format_map(r["numerics"]) for r in self.finished if r["numerics"]})
        )


def cells(records: Iterable[Record]) -> list[Cell]:
    """Group ``records`` over seeds, sorted. One without a teacher is shown on each pair of its student and setting."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[_place(record)].append(record)
    made = [_cell(group, str(place[-1])) for place, group in groups.items()]
    return sorted(_spread(made), key=_order)


def _place(record: Record) -> tuple[Any, ...]:
    return (*(record[name] for name in _NAMED), _variant(record))


def _cell(group: Iterable[Record], variant: str) -> Cell:
    records = tuple(sorted(group, key=lambda r: (r["seed"], r["key"])))
    first = records[0]
    setting = {name: first["identity"].get(name) for name in ("data", "protocol", "student", "supervision")}
    named = {name: first[name] for name in _NAMED}
    return Cell(**named, setting=_canonical(setting), variant=variant, records=records)


def _variant(record: Record) -> str:
    return _canonical({name: value for name, value in record["identity"].items() if name != "seed"})


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _order(cell: Cell) -> tuple[Any, ...]:
    return (cell.suite, cell.dataset, cell.pair, cell.label, cell.evidence, cell.variant)


def _spread(made: Sequence[Cell]) -> list[Cell]:
    """The student alone on each pair of its company; what was measured on no pair that was only contributed."""
    every: dict[tuple[str, ...], set[str]] = defaultdict(set)
    ours: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for cell in made:
        if cell.teacher != NO_TEACHER:
            every[_company(cell)].add(cell.pair)
            if cell.measured:
                ours[_company(cell)].add(cell.pair)
    out = []
    for cell in made:
        pairs = ours if cell.measured else every
        shown = pairs.get(_company(cell)) if cell.teacher == NO_TEACHER else None
        out += [cell] if not shown else [dataclasses.replace(cell, pair=pair) for pair in sorted(shown)]
    return out


def _company(cell: Cell) -> tuple[str, ...]:
    return (cell.suite, cell.dataset, cell.student, cell.setting)


def by_seed(cell: Cell, metric: str = "top1", selection: str = "last") -> dict[int, float]:
    """``metric`` of each finished seed at ``selection``; replicates of a seed count once, by their mean."""
    found: dict[int, list[float]] = defaultdict(list)
    for record in cell.finished:
        score = (record["scores"].get(selection) or {}).get(metric)
        if score is not None:
            found[record["seed"]].append(score)
    return {seed: sum(values) / len(values) for seed, values in sorted(found.items())}


def summary(cell: Cell, metric: str = "top1", selection: str = "last") -> Interval | None:
    """Mean and 95 % interval of ``metric`` over the cell's finished seeds; None when none has it."""
    values = by_seed(cell, metric, selection)
    return t_interval(values.values()) if values else None


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a few values, and between which they lie."""

    middle: float
    low: float
    high: float


def cost(cells: Iterable[Cell], name: str) -> Spread | None:
    """Median and range of one field of the records' ``cost`` over finished trials; None when none has it.

    No mean: whatever disturbs a timing makes it longer, now and then by a lot, and its ratio to another either way.
    """
    found = (r["cost"].get(name) for cell in cells for r in cell.finished if r["cost"])
    values = [float(value) for value in found if value is not None]
    return Spread(median(values), min(values), max(values)) if values else None


def differences(cell: Cell, other: Cell, metric: str = "top1", selection: str = "last") -> dict[int, float]:
    """``cell`` minus ``other`` for every seed both finished.

    A seed that was run on several machines is compared on those that both ran on, where there are any: what one machine
    rounds differently from another must not count as a difference of methods.
    """
    mine, theirs = by_seed(cell, metric, selection), by_seed(other, metric, selection)
    found = {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}
    for seed in {*cell.replicated, *other.replicated} & found.keys():
        here, there = (_by_numerics(each, seed, metric, selection) for each in (cell, other))
        if common := here.keys() & there.keys():
            found[seed] = sum(here[machine] - there[machine] for machine in common) / len(common)
    return found


def _by_numerics(cell: Cell, seed: int, metric: str, selection: str) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for record in cell.finished:
        score = (record["scores"].get(selection) or {}).get(metric)
        if record["seed"] == seed and score is not None:
            found[_canonical(record["numerics"])].append(score)
    return {machine: sum(values) / len(values) for machine, values in found.items()}


def difference(cell: Cell, other: Cell, metric: str = "top1", selection: str = "last") -> Interval | None:
    """Mean of the seed-by-seed differences and its 95 % interval; None when no seed is common."""
    values = differences(cell, other, metric, selection)
    return t_interval(values.values()) if values else None


def ranking_selection(cells: Iterable[Cell]) -> str:
    """The selection that the cells' protocols name, if they agree on a fair one; else ``last``."""
    return "best_val" if all(protocol(cell).get("selection") == "best_val" for cell in leading(cells)) else "last"


def leading(cells: Iterable[Cell]) -> list[Cell]:
    """The measured ones of ``cells``, which alone decide what all are set against; the others where there are none."""
    found = list(cells)
    return [cell for cell in found if cell.measured] or found


def protocol(cell: Cell) -> Mapping[str, Any]:
    """What of the protocol the cell's records say."""
    return _protocol(cell.setting)


@lru_cache(maxsize=1024)
def _protocol(setting: str) -> Mapping[str, Any]:
    """Cells share few settings, and pages ask for the protocol of each again and again."""
    found = json.loads(setting).get("protocol")
    return MappingProxyType(found if isinstance(found, dict) else {})


def students(cells: Iterable[Cell]) -> list[Cell]:
    """The students alone among ``cells``: what a baseline is one of."""
    return [cell for cell in cells if cell.method == "ce" and cell.stream == 0]


def baseline(cell: Cell, alone: Iterable[Cell]) -> Cell | None:
    """The one of the students ``alone`` that shares suite, pair and setting; None for that student itself, or none."""
    found = [c for c in alone if c.evidence == cell.evidence and _company(c) == _company(cell)]
    best = min((c for c in found if c.pair == cell.pair), key=lambda c: (c.label != "ce", _order(c)), default=None)
    return None if best is None or best.variant == cell.variant else best


def doubled(cell: Cell, among: Iterable[Cell]) -> Cell | None:
    """The row an A/A row repeats under a second random stream: same method and configuration, stream 0; else None."""
    if cell.stream == 0:
        return None
    wanted = _without_stream(cell)
    return next(
        (
            c
            for c in among
            if c.stream == 0
            and (c.suite, c.pair, c.evidence) == (cell.suite, cell.pair, cell.evidence)
            and _without_stream(c) == wanted
        ),
        None,
    )


def _without_stream(cell: Cell) -> str:
    return _canonical({k: v for k, v in json.loads(cell.variant).items() if k != "stream"})


def mean_gain(pairs: Sequence[tuple[Cell, Cell]], metric: str = "top1", selection: str = "last") -> Interval | None:
    """Mean over pairs of (row, its baseline) of the gain, with an interval over the seeds that every pair has.

    The interval speaks of these pairs under other seeds, not of other pairs. Without a common seed it is the plain mean
    of the pairs' gains, and no interval.
    """
    gains = [g for g in (differences(row, base, metric, selection) for row, base in pairs) if g]
    if not gains:
        return None
    if common := _common(gains):
        return t_interval(common.values())
    return Interval(0, sum(sum(g.values()) / len(g) for g in gains) / len(gains))


def gains_by_seed(
    pairs: Sequence[tuple[Cell, Cell]], metric: str = "top1", selection: str = "last"
) -> dict[int, float]:
    """The mean over pairs of (row, its baseline) of the gain, for each seed that every pair has."""
    return _common([g for g in (differences(row, base, metric, selection) for row, base in pairs) if g])


def _common(gains: Sequence[Mapping[int, float]]) -> dict[int, float]:
    seeds = sorted(set.intersection(*(set(g) for g in gains))) if gains else []
    return {seed: sum(g[seed] for g in gains) / len(gains) for seed in seeds}
