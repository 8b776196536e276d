"""Cells as table lines: every number of a row, its plot, and all that a reader should know before believing it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from kdbench.data import DATASETS
from kdbench.render.dots import Axis, Dot, axis
from kdbench.stats import aggregate
from kdbench.stats.aggregate import SELECTIONS, Cell, Spread, leading, protocol
from kdbench.stats.intervals import Interval

#: Parts of an identity that are the same in all records of a line, the seed aside.
PLANNED = ("method", "student", "teacher", "protocol", "supervision", "data", "engine", "stream")
METRICS = ("top5", "nll", "ece", "agreement")
#: Times the accuracy of guessing, below which a row learned nothing.
NOTHING_LEARNED = 1.2


@dataclass(frozen=True)
class Line:
    """One row on one pair. Everything is at the table's selection but ``others``: top-1 at the remaining ones."""

    cell: Cell
    top1: Interval | None
    gain: Interval | None
    others: Mapping[str, Interval | None]
    metrics: Mapping[str, Interval | None]
    cost: Spread | None
    kind: str
    badges: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    variant: str = ""
    dot: Dot | None = None
    #: The row of the student alone that the gain is over.
    alone: str = ""

    @property
    def plan(self) -> Mapping[str, str]:
        """All that was planned but the seed, flat."""
        identity = self.cell.records[0]["identity"]
        return flatten({part: identity[part] for part in PLANNED if part in identity})


@dataclass(frozen=True)
class Table:
    """The lines of one pair in one suite, best mean first, all at ``selection``; ``contributed`` ones stand apart."""

    suite: str
    dataset: str
    pair: str
    #: data set, teacher, student, as the site calls them
    names: tuple[str, str, str]
    selection: str
    lines: tuple[Line, ...]
    axis: Axis
    contributed: tuple[Line, ...] = ()

    @property
    def every(self) -> tuple[Line, ...]:
        return self.lines + self.contributed

    @cached_property
    def of_label(self) -> Mapping[str, Line]:
        """The measured line of each label; the best of several."""
        return {line.cell.label: line for line in reversed(self.lines)}

    @cached_property
    def n(self) -> int:
        """How many seeds most of its lines have."""
        return next((n for n, _ in Counter(line.top1.n for line in self.every if line.top1).most_common(1)), 0)

    @cached_property
    def others(self) -> list[str]:
        """The further selections that at least one line has."""
        return [s for s in SELECTIONS if s != self.selection and any(line.others[s] for line in self.every)]


def table(cells: Sequence[Cell], names: tuple[str, str, str], selection: str, reconstructions: frozenset[str]) -> Table:
    """The table of ``cells``, which share suite, data set and pair; ``reconstructions`` are methods marked as such."""
    variants = Counter((cell.label, cell.evidence) for cell in cells)
    several = {place: [c for c in cells if (c.label, c.evidence) == place] for place, n in variants.items() if n > 1}
    usual = Usual(
        _commonest(dict(protocol(c)) for c in leading(cells)),
        _commonest(map(_supervision, leading(cells))),
        _usual_weights(cells),
    )
    students = aggregate.students(cells)
    lines = [
        _line(cell, cells, students, selection, reconstructions, several.get((cell.label, cell.evidence), ()), usual)
        for cell in cells
    ]
    lines.sort(key=lambda line: (-line.top1.mean if line.top1 else float("inf"), line.cell.label, line.cell.variant))
    ours = [line for line in lines if line.cell.measured]
    alone = next((line.top1.mean for line in ours if line.kind == "baseline" and line.top1), None)
    shared = axis([line.top1 for line in ours if line.top1], alone)
    plotted = [dataclasses.replace(line, dot=shared.dot(line.top1, line.kind)) if line.top1 else line for line in ours]
    first, others = cells[0], tuple(line for line in lines if not line.cell.measured)
    return Table(first.suite, first.dataset, first.pair, names, selection, tuple(plotted), shared, others)


class Usual(NamedTuple):
    """What most rows of a table have in common, found once for all of them."""

    protocol: Any
    supervision: Any
    #: The digest of most teachers' weights, by seed.
    weights: Mapping[int, str]


def _commonest(values: Iterable[Any]) -> Any:
    """The commonest of ``values``, which are plain data; the first of equals."""
    return json.loads(Counter(json.dumps(value, sort_keys=True) for value in values).most_common(1)[0][0])


def _line(
    cell: Cell,
    cells: Sequence[Cell],
    students: Sequence[Cell],
    selection: str,
    reconstructions: frozenset[str],
    variants: Sequence[Cell],
    usual: Usual,
) -> Line:
    base, top1 = aggregate.baseline(cell, students), aggregate.summary(cell, "top1", selection)
    kind = "aa" if cell.stream else "baseline" if cell.method == "ce" else "measured"
    kind = kind if cell.measured else "contributed"
    return Line(
        cell=cell,
        top1=top1,
        gain=None if base is None else aggregate.difference(cell, base, "top1", selection),
        others={s: aggregate.summary(cell, "top1", s) for s in SELECTIONS if s != selection},
        metrics={metric: aggregate.summary(cell, metric, selection) for metric in METRICS},
        cost=aggregate.cost([cell], "ratio_to_ce"),
        kind=kind,
        badges=(*_badges(cell, cells, reconstructions, usual), *_chance(cell, top1)),
        notes=tuple(_notes(cell)),
        variant=_what_differs(cell, variants),
        alone="" if base is None else base.label,
    )


def _badges(
    cell: Cell, cells: Sequence[Cell], reconstructions: frozenset[str], usual: Usual
) -> Iterable[tuple[str, str]]:
    """(class, text) of each flag."""
    if not cell.measured:
        yield "plain", f"contributed, {_recomputed(cell)}"
    if cell.stream:
        twin = aggregate.doubled(cell, cells)
        yield "aa", f"A/A of {twin.label}" if twin else f"random stream {cell.stream}"
    if cell.method in reconstructions:
        yield "warn", "reconstruction"
    if own := _own_protocol(cell, usual.protocol):
        yield "warn", f"own protocol: {own}"
    if own := _own_supervision(cell, usual.supervision):
        yield "warn", f"supervision: {own}"
    for status, n in cell.statuses.items():
        if status != "finished":
            yield "bad", f"{n} {status.replace('_', ' ')}"
    if cell.replicated:
        yield "warn", f"seed {', '.join(map(str, cell.replicated))} run more than once"
    if len(cell.numerics) > 1:
        yield "warn", "different numerics"
    if others := _otherwise_taught(cell, usual.weights):
        yield "warn", f"seed {', '.join(map(str, others))} under another training of the teacher"


def _chance(cell: Cell, top1: Interval | None) -> Iterable[tuple[str, str]]:
    """That it learned nothing: it is right hardly more often than one who guesses among the classes."""
    spec = DATASETS.get(cell.dataset) if cell.dataset in DATASETS else None
    if spec is not None and top1 is not None and top1.mean < NOTHING_LEARNED * 100 / spec.classes:
        yield "bad", "no better than chance"


def _usual_weights(cells: Iterable[Cell]) -> dict[int, str]:
    found: dict[int, Counter[str]] = {}
    for record in (record for cell in cells if cell.measured for record in cell.finished if record["teacher"]):
        found.setdefault(record["seed"], Counter())[record["teacher"]["weights_sha256"]] += 1
    return {seed: counted.most_common(1)[0][0] for seed, counted in found.items()}


def _otherwise_taught(cell: Cell, usual: Mapping[int, str]) -> list[int]:
    """The seeds of which no record has the teacher that most rows have: the same recipe trained on another machine."""
    taught: dict[int, set[str]] = {}
    for record in cell.finished if cell.measured else ():
        if record["teacher"]:
            taught.setdefault(record["seed"], set()).add(record["teacher"]["weights_sha256"])
    return sorted(seed for seed, found in taught.items() if usual[seed] not in found)


def _recomputed(cell: Cell) -> str:
    """What of a contributed cell was computed here, from the predictions that came with it."""
    of = sum(record["predictions"] is not None for record in cell.finished)
    if not of:
        return "nothing recomputed"
    which = "" if of == len(cell.finished) else f" of {of} of {len(cell.finished)} trials"
    return f"top-1, top-5, NLL and ECE{which} recomputed"


def _own_protocol(cell: Cell, usual: Any) -> str:
    """What ``cell`` changes of the ``usual`` protocol, in words; empty where it changes nothing."""
    mine = protocol(cell)
    if mine == usual:
        return ""
    common = flatten(usual)
    return ", ".join(f"{name} {value}" for name, value in flatten(dict(mine)).items() if common.get(name) != value)


def _own_supervision(cell: Cell, usual: Any) -> str:
    """What ``cell`` was shown, in words, where it is not the ``usual``; else empty."""
    mine = _supervision(cell)
    if mine == usual:
        return ""
    if not isinstance(mine, dict):
        return str(mine)
    fields = {name: value for name, value in flatten(mine).items() if value not in ("", "[]")}
    said = (f"{name} {value}" for name, value in fields.items() if name not in ("kind", "version", "source"))
    return f"{mine.get('kind')}: {', '.join(said)}"


def _supervision(cell: Cell) -> Any:
    return cell.records[0]["identity"].get("supervision")


def _notes(cell: Cell) -> Iterable[str]:
    """The full sentences behind the badges, each once."""
    if len(cell.numerics) > 1:
        yield f"Trials of this row ran under different numerics: {'; '.join(cell.numerics)}."
    told: dict[str, list[int]] = {}
    for record in cell.records:
        for text in (*record["warnings"], *([record["detail"]] if record["status"] != "finished" else [])):
            if text:
                told.setdefault(text, []).append(record["seed"])
    for text, seeds in told.items():
        yield f"{text} (seed {', '.join(str(s) for s in sorted(set(seeds)))})"


def _what_differs(cell: Cell, variants: Sequence[Cell]) -> str:
    """The planned values in which ``cell`` differs from the other rows of its label, as "name value" pairs."""
    if not variants:
        return ""
    mine = flatten(json.loads(cell.variant))
    names = _differing(tuple(other.variant for other in variants))
    return ", ".join(f"{n} {mine.get(n, 'absent')}" for n in names[:6])


@lru_cache(maxsize=8)
def _differing(variants: tuple[str, ...]) -> list[str]:
    """The names of what is not the same in all ``variants``, which all rows of one label share."""
    values: dict[str, list[str]] = defaultdict(list)
    for variant in variants:
        for name, value in flatten(json.loads(variant)).items():
            values[name].append(value)
    return sorted(n for n, found in values.items() if len(found) < len(variants) or len(set(found)) > 1)


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested plain data as dotted names and texts; lists stay whole."""
    if isinstance(value, dict):
        out: dict[str, str] = {}
        for name, inner in value.items():
            out.update(flatten(inner, f"{prefix}.{name}" if prefix else str(name)))
        return out
    return {prefix: value if isinstance(value, str) else str(value) if type(value) is int else json.dumps(value)}
