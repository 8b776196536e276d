"""A suite's rows over its pairs, each pair counting once: what other pairs might have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdbench.stats import aggregate
from kdbench.stats.bootstrap import percentiles, redrawn
from kdbench.stats.intervals import Interval
from kdbench.stats.profiles import profile
from kdbench.stats.ranks import FEWEST_PAIRS, borda, cliques, critical_difference, places, wins
from kdbench.stats.standings import Row

#: Points behind the best row of a pair: where performance profiles are read.
BEHIND = (0.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Across:
    """The ``rows`` by mean place, with the interval of that place and of the mean gain over the ``baseline``.

    Both intervals are over pairs and seeds. Pairs that share the student alone, trial for trial, are ``averaged`` and
    count as one: what chance did to it, it did on all of them. ``shares``: on what share of pairs a row is within
    ``behind`` points of the best one; ``wins``: on how many pairs it is above each other row; ``cliques``: rows whose
    mean places lie less than the ``critical`` difference apart.
    """

    rows: tuple[str, ...]
    pairs: int
    places: tuple[Interval, ...]
    gains: tuple[Interval | None, ...]
    shares: NDArray[np.float64]
    wins: NDArray[np.float64]
    critical: float
    cliques: tuple[tuple[str, ...], ...]
    averaged: bool = False
    behind: tuple[float, ...] = BEHIND


def across(rows: Mapping[str, Row], selection: str, baseline: str | None) -> Across | None:
    """What ``rows``, each with a cell for every pair, came to; None with too few pairs, rows or common seeds.

    The seeds of a pair are those that all its rows finished; as many are used on each pair as the least of them has.
    """
    labels = list(rows)
    if len({pair for row in rows.values() for pair in row}) < FEWEST_PAIRS or len(labels) < 2:
        return None
    table = common_scores(rows, selection)
    if table is None:
        return None
    alone = {} if baseline is None else rows[baseline]
    together: dict[object, list[int]] = {}
    for at, pair in enumerate(sorted({pair for row in rows.values() for pair in row})):
        whose = frozenset(record["key"] for record in alone[pair].records) if pair in alone else pair
        together.setdefault(whose, []).append(at)
    if len(together) < FEWEST_PAIRS:
        return None
    averaged = len(together) < table.shape[1]
    table = np.stack([table[:, members].mean(axis=1) for members in together.values()], axis=1)
    found = _across(table, labels, None if baseline is None else labels.index(baseline))
    return replace(found, averaged=averaged)


def common_scores(rows: Mapping[str, Row], selection: str) -> NDArray[np.float64] | None:
    """[rows, pairs, seeds]: accuracies under the seeds that all ``rows`` finished, as many on each pair.

    None where a pair has no such seed.
    """
    pairs = sorted({pair for row in rows.values() for pair in row})
    scores = {
        (label, pair): aggregate.by_seed(row[pair], "top1", selection) for label, row in rows.items() for pair in pairs
    }
    common = {pair: sorted(set.intersection(*(set(scores[label, pair]) for label in rows))) for pair in pairs}
    seeds = min(map(len, common.values()), default=0)
    if not seeds:
        return None
    return np.array(
        [[[scores[label, pair][seed] for seed in common[pair][:seeds]] for pair in pairs] for label in rows]
    )


def _across(table: NDArray[np.float64], labels: Sequence[str], baseline: int | None) -> Across:
    means = table.mean(axis=2)
    drawn = [(block.over_pairs(places(block.means)), block.over_pairs(block.means)) for block in redrawn(table)]
    drawn_places, over_pairs = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    place = borda(means)
    order = np.argsort(place, kind="stable")
    intervals = _intervals(place, drawn_places, table.shape[1])
    gains: list[Interval | None] = [None] * len(labels)
    if baseline is not None:
        mean = means.mean(axis=1)
        found = _intervals(mean - mean[baseline], over_pairs - over_pairs[:, [baseline]], table.shape[1])
        gains = [None if row == baseline else interval for row, interval in enumerate(found)]
    critical = critical_difference(len(labels), table.shape[1])
    return Across(
        rows=tuple(labels[row] for row in order),
        pairs=table.shape[1],
        places=tuple(intervals[row] for row in order),
        gains=tuple(gains[row] for row in order),
        shares=profile(means, BEHIND)[order],
        wins=wins(means)[np.ix_(order, order)],
        critical=critical,
        cliques=tuple(tuple(labels[row] for row in clique) for clique in cliques(place, critical)),
    )


def _intervals(values: NDArray[np.float64], drawn: NDArray[np.float64], n: int) -> list[Interval]:
    low, high = percentiles(drawn, n)
    return [Interval(n, float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]
