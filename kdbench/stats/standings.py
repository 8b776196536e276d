"""A suite's rows beside one another: who is shown to be better, what is gained over the student alone, at what cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.stats import aggregate
from kdbench.stats.aggregate import Cell, Spread
from kdbench.stats.comparisons import Comparisons, compare, mcnemar
from kdbench.stats.crossed import crossed_interval
from kdbench.stats.intervals import Interval
from kdbench.stats.multiplicity import holm
from kdbench.stats.profiles import front
from kdbench.stats.ranks import rank_intervals

Floats = NDArray[np.float64]
#: The cells of a row, by data set and pair.
Row = Mapping[tuple[str, str], Cell]
#: Which test images a record's network is right on, at the selection; None where that is not known.
Right = Callable[[Any], NDArray[np.bool_] | None]


@dataclass(frozen=True)
class Standing:
    """A row over all pairs of a table. ``rank``: the first and the last place that it may have among the compared rows.

    ``gain`` over the student alone speaks of other seeds, ``gain_on_images`` of other seeds and other test images.
    ``efficient``: no row costs as little and gains as much. ``mcnemar`` is there where one seed is all there is: the
    adjusted p-value of this network being right as often as the student alone on these images.
    """

    label: str
    kind: str
    n: int
    top1: float
    rank: tuple[int, int]
    gain: Interval | None
    gain_on_images: Interval | None
    cost: Spread | None
    seconds: Spread | None
    efficient: bool
    mcnemar: float | None = None


@dataclass(frozen=True)
class Standings:
    """The rows that can be compared, best mean first, as ``comparisons`` has them; ``apart``: the labels of the others.

    A row can be compared where it has been measured on every pair, in one configuration, under the protocol of the
    student alone. ``twins``: each A/A row, the row it repeats and their difference. ``noise``: half the width of the
    interval of such a difference, which is zero in truth, or of a usual one; None where one seed is all there is.
    """

    rows: tuple[Standing, ...]
    apart: tuple[str, ...]
    pairs: tuple[str, ...]
    comparisons: Comparisons
    twins: tuple[tuple[str, str, Interval], ...]
    noise: float | None
    images: int | None
    looks: tuple[int, ...]

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where each label stands in ``rows``."""
        return {row.label: number for number, row in enumerate(self.rows)}


def standings(cells: Sequence[Cell], selection: str, right: Right = lambda record: None) -> Standings:
    """The standings of ``cells``, which belong to one suite."""
    rows = whole_rows(cells)
    alone, company = _company(rows)
    scores = {label: by_seed for label in company if (by_seed := _scores(rows[label], selection))}
    labels = sorted(scores, key=lambda name: (-_mean(scores[name]), name))
    alone = alone if alone in scores else None
    seeds = sorted({seed for label in labels for seed in scores[label]})
    table = np.array([[scores[label].get(seed, np.nan) for seed in seeds] for label in labels], float)
    looks = max((looks_of(cell) for label in labels for cell in rows[label].values()), key=len, default=())
    found = compare(table.reshape(len(labels), len(seeds)), looks)
    ranks = rank_intervals(found.better)
    beside = _Beside(found, labels, alone, {} if alone is None else _images(rows[alone], right))
    made, counts = [], set()
    for number, label in enumerate(labels):
        images = _images(rows[label], right)  # of one row at a time: those of many do not fit into memory
        counts |= {len(next(iter(images.values())))} if images else set()
        made.append(_standing(number, label, rows[label], scores[label], ranks[number], images, beside))
    twins = _twins(found, {label: rows[label] for label in labels})
    return Standings(
        rows=tuple(_marked(made)),
        apart=tuple(sorted({cell.label for cell in cells} - scores.keys())),
        pairs=tuple(pair for _, pair in sorted({(cell.dataset, cell.pair) for cell in cells})),
        comparisons=found,
        twins=tuple(twins),
        noise=_noise(found, twins),
        images=counts.pop() if len(counts) == 1 else None,
        looks=looks,
    )


def looks_of(cell: Cell) -> tuple[int, ...]:
    """The numbers of seeds at which it was decided whether to add some, as its records say; empty without that."""
    found = (tuple(record["provenance"].get("looks") or ()) for record in cell.records if record.get("provenance"))
    return max(found, key=lambda looks: (len(looks), looks), default=())


def whole_rows(cells: Iterable[Cell]) -> dict[str, dict[tuple[str, str], Cell]]:
    """The measured cells of each row by data set and pair, where it has one cell on every pair."""
    found: dict[str, dict[tuple[str, str], list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.evidence == "measured":
            found[cell.label][cell.dataset, cell.pair].append(cell)
    pairs = sorted({pair for places in found.values() for pair in places})
    return {
        label: {pair: places[pair][0] for pair in pairs}
        for label, places in found.items()
        if all(len(places.get(pair, ())) == 1 for pair in pairs)
    }


def _company(rows: Mapping[str, Row]) -> tuple[str | None, list[str]]:
    """The student alone that most rows share their setting with, and those rows; without any such student, all rows."""

    def sharing(label: str) -> list[str]:
        setting = {pair: cell.setting for pair, cell in rows[label].items()}
        return [other for other, row in rows.items() if {pair: cell.setting for pair, cell in row.items()} == setting]

    students = [label for label, row in rows.items() if all(c.method == "ce" and c.stream == 0 for c in row.values())]
    best = max(students, key=lambda label: (len(sharing(label)), label == "ce"), default=None)
    return best, list(rows) if best is None else sharing(best)


def _scores(row: Row, selection: str) -> dict[int, float]:
    """The mean over pairs of each seed that every pair has."""
    by_pair = [aggregate.by_seed(cell, "top1", selection) for cell in row.values()]
    common = set.intersection(*(set(found) for found in by_pair))
    return {seed: sum(found[seed] for found in by_pair) / len(by_pair) for seed in sorted(common)}


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _images(row: Row, right: Right) -> dict[int, Floats]:
    """For each seed that every pair has: on which test images the row was right, as a share of the pairs."""
    found: dict[int, list[Floats]] = defaultdict(list)
    for cell in row.values():
        replicates: dict[int, list[Floats | None]] = defaultdict(list)
        for record in cell.finished:
            seen = right(record)
            replicates[record["seed"]].append(None if seen is None else np.asarray(seen, float))
        for seed, several in replicates.items():
            if (mean := _mean_of(several)) is not None:
                found[seed].append(mean)
    means = {seed: _mean_of(seen) for seed, seen in sorted(found.items()) if len(seen) == len(row)}
    return {seed: shares for seed, shares in means.items() if shares is not None}


def _mean_of(arrays: Sequence[Floats | None]) -> Floats | None:
    """The mean of ``arrays``; None where one is missing or has another length."""
    known = [array for array in arrays if array is not None]
    if len(known) == len(arrays) == 1:
        return known[0]
    return np.mean(known, axis=0) if len(known) == len(arrays) and len({*map(len, known)}) == 1 else None


@dataclass(frozen=True)
class _Beside:
    """What a row stands beside: all comparisons, the labels in order, the student alone, and what that was right on."""

    comparisons: Comparisons
    labels: Sequence[str]
    alone: str | None
    images: Mapping[int, Floats]


def _standing(
    number: int,
    label: str,
    row: Row,
    scores: Mapping[int, float],
    rank: tuple[int, int],
    images: Mapping[int, Floats],
    beside: _Beside,
) -> Standing:
    first = next(iter(row.values()))
    gain, on_images, p = (None, None, None) if beside.alone in (None, label) else _gain(number, images, beside)
    return Standing(
        label=label,
        kind="aa" if first.stream else "baseline" if label == beside.alone else "measured",
        n=len(scores),
        top1=_mean(scores),
        rank=rank,
        gain=gain,
        gain_on_images=on_images,
        cost=aggregate.cost(row.values(), "ratio_to_ce"),
        seconds=aggregate.cost(row.values(), "seconds"),
        efficient=False,
        mcnemar=p,
    )


def _gain(
    number: int, mine: Mapping[int, Floats], beside: _Beside
) -> tuple[Interval | None, Interval | None, float | None]:
    assert beside.alone is not None
    other = beside.labels.index(beside.alone)
    found, at = beside.comparisons, beside.comparisons.of(number, other)
    n = int(found.n[at])
    if not n:
        return None, None, None
    gain = _interval(found, at, 1 if number < other else -1)
    theirs = beside.images
    common = [seed for seed in mine if seed in theirs and len(mine[seed]) == len(theirs[seed])]
    if n == 1 or not found.df[at] > 0:
        alone = common and len(common) == 1 and {*np.unique(mine[common[0]])} <= {0.0, 1.0}
        p = mcnemar(mine[common[0]] > 0, theirs[common[0]] > 0) if alone else None
        return gain, None, p
    if len(common) != n:
        return gain, None, None
    gaps = 100 * np.array([mine[seed] - theirs[seed] for seed in common])
    between = (float(found.error[at]) ** 2 * n, float(found.df[at]))
    return gain, crossed_interval(gaps, seeds=between), None


def _marked(rows: Sequence[Standing]) -> list[Standing]:
    """``rows`` with Holm's p-values in the place of single ones, and with those marked that are on the Pareto front."""
    p = {row.label: row.mcnemar for row in rows if row.mcnemar is not None}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    costs = {row.label: (row.cost.middle, row.top1) for row in rows if row.cost is not None and row.kind != "aa"}
    best = front(*zip(*costs.values(), strict=True)) if costs else ()
    efficient = {label for label, on in zip(costs, best, strict=True) if on}
    return [
        replace(
            row,
            mcnemar=float(adjusted[row.label]) if row.label in adjusted else None,
            efficient=row.label in efficient,
        )
        for row in rows
    ]


def _twins(found: Comparisons, rows: Mapping[str, Row]) -> list[tuple[str, str, Interval]]:
    labels, cells = list(rows), [cell for row in rows.values() for cell in row.values()]
    made = []
    for number, (label, row) in enumerate(rows.items()):
        twin = aggregate.doubled(next(iter(row.values())), cells)
        if twin is not None:
            other = labels.index(twin.label)
            made.append((label, twin.label, _interval(found, found.of(number, other), 1 if number < other else -1)))
    return made


def _interval(found: Comparisons, at: int, sign: int) -> Interval:
    n, mean, half = int(found.n[at]), sign * float(found.difference[at]), found.half(at)
    return Interval(n, mean, mean - half, mean + half) if np.isfinite(half) else Interval(n, mean)


def _noise(found: Comparisons, twins: Sequence[tuple[str, str, Interval]]) -> float | None:
    halves = np.array([twin[2].half for twin in twins], float) if twins else found.halves()
    known = halves[np.isfinite(halves)]
    return float(np.median(known)) if len(known) else None


def open_comparisons(found: Standings, margin: float, versus: str | None = None) -> list[tuple[str, str]]:
    """The pairs of rows of which it is not known which is better, nor that they are within ``margin`` of one another.

    A/A rows are left out, since nothing is to be known of them; ``versus``: only pairs with this row.
    """
    c = found.comparisons
    undecided = ~c.apart & ~c.within(margin)
    made = []
    for at in np.flatnonzero(undecided):
        one, other = found.rows[int(c.first[at])], found.rows[int(c.second[at])]
        if "aa" not in (one.kind, other.kind) and versus in (None, one.label, other.label):
            made.append((one.label, other.label))
    return made
