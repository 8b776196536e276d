"""Rows by their mean place in single trainings: which are not told apart, and how far behind the best they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from kdbench.stats import aggregate
from kdbench.stats.across import BEHIND, common_scores
from kdbench.stats.comparisons import Comparisons
from kdbench.stats.profiles import profile
from kdbench.stats.ranks import stretches, wins
from kdbench.stats.standings import Row

#: Fewer rows, and fewer trainings of each, have no places worth a mean.
FEWEST_ROWS, FEWEST_TRAININGS = 3, 2


@dataclass(frozen=True)
class Placing:
    """The ``rows`` by mean place, in which each of ``pairs`` counts once, as each of its ``seeds`` does.

    ``groups``: the longest stretches of ``rows`` of which no two are told apart. ``behind`` [rows, pairs * seeds]: by
    how many points a row is below the best of each pair and seed, in rising order; ``shares``: on what share of these
    it is within BEHIND points. ``short``: rows that finished fewer trainings than usual, and have no place.
    """

    rows: tuple[str, ...]
    pairs: int
    seeds: int
    places: tuple[float, ...]
    groups: tuple[tuple[str, ...], ...]
    behind: NDArray[np.float64]
    shares: NDArray[np.float64]
    short: tuple[str, ...] = ()
    gaps: tuple[float, ...] = BEHIND


def placing(rows: Mapping[str, Row], selection: str, found: Comparisons) -> Placing | None:
    """How ``rows``, in the order of the comparisons ``found``, are placed; None with too few rows or trainings."""
    trainings = {label: _trainings(row, selection) for label, row in rows.items()}
    usual = median_low(trainings.values()) if trainings else 0
    whole = [at for at, label in enumerate(rows) if trainings[label] >= usual]
    labels = [list(rows)[at] for at in whole]
    table = common_scores({label: rows[label] for label in labels}, selection) if len(whole) >= FEWEST_ROWS else None
    if table is None or table[0].size < FEWEST_TRAININGS:
        return None
    scores = table.reshape(len(labels), -1)
    mean = len(labels) - np.mean([wins(training[:, None]).sum(axis=1) for training in scores.T], axis=0)
    order = np.argsort(mean, kind="stable")
    apart = np.zeros((found.rows, found.rows), bool)
    apart[found.first, found.second] = found.apart
    groups = stretches(order, (apart | apart.T)[np.ix_(whole, whole)])
    return Placing(
        rows=tuple(labels[row] for row in order),
        pairs=table.shape[1],
        seeds=table.shape[2],
        places=tuple(float(mean[row]) for row in order),
        groups=tuple(tuple(labels[row] for row in group) for group in groups),
        behind=np.sort(scores.max(axis=0) - scores, axis=1)[order],
        shares=profile(scores, BEHIND)[order],
        short=tuple(label for label in rows if label not in labels),
    )


def _trainings(row: Row, selection: str) -> int:
    return sum(len(aggregate.by_seed(cell, "top1", selection)) for cell in row.values())
