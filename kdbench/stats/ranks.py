"""Places in a table, from what was shown and not from the order of means; and ranks over many pairs."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdbench.stats.multiplicity import LEVEL

Floats = NDArray[np.float64]

#: With fewer pairs than these no test of ranks can tell any two rows apart.
FEWEST_PAIRS = 6


def rank_intervals(better: ArrayLike) -> list[tuple[int, int]]:
    """The first and the last place that each row may have, given which rows are shown to be ``better`` [row, than].

    One more than the rows shown to be better, and as many as are not shown to be worse (Al Mohamad, Goeman and van
    Zwet, Biometrics 78, 2022). All intervals together are right as often as all comparisons are.
    """
    shown = np.asarray(better, bool)
    return [(1 + int(above), len(shown) - int(below)) for above, below in zip(shown.sum(0), shown.sum(1), strict=True)]


def wins(scores: ArrayLike) -> Floats:
    """[rows, rows]: on how many pairs the row's score is above the column's, an equal one counting a half.

    ``scores`` are [rows, pairs], nan where a row has none.
    """
    table = np.asarray(scores, float)
    gaps = table[:, None] - table[None]
    found = np.asarray(((gaps > 0) + (gaps == 0) / 2).sum(axis=2), float)
    np.fill_diagonal(found, 0.0)
    return found


def places(scores: ArrayLike) -> Floats:
    """Each row's place on each pair, 1 for the best, the mean of their places for equal ones; of [..., rows, pairs]."""
    values = np.ascontiguousarray(np.swapaxes(-np.asarray(scores, float), -1, -2))
    order = values.argsort(axis=-1)
    ranked = np.take_along_axis(values, order, axis=-1)
    differs, edge = ranked[..., 1:] != ranked[..., :-1], np.ones((*values.shape[:-1], 1), bool)
    number = np.arange(1.0, values.shape[-1] + 1)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], axis=-1), number, 0), axis=-1)
    ends = np.where(np.concatenate([differs, edge], axis=-1), number, np.inf)
    last = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    found = np.empty_like(values)
    np.put_along_axis(found, order, (first + last) / 2, axis=-1)
    return np.swapaxes(found, -1, -2)


def borda(scores: ArrayLike) -> Floats:
    """Each row's mean place over the pairs of ``scores`` [..., rows, pairs]: Borda's count, as a rank."""
    return np.asarray(places(scores).mean(axis=-1), float)


def critical_difference(rows: int, pairs: int, level: float = LEVEL) -> float:
    """How far mean places over ``pairs`` lie apart where chance alone seldom moves any two of ``rows`` as far.

    The test of Nemenyi as Demsar, J. Mach. Learn. Res. 7, 2006, section 3.2.2 has it.
    """
    return range_quantile(rows, level) * math.sqrt(rows * (rows + 1) / (12 * pairs))


@cache
def range_quantile(count: int, level: float) -> float:
    """What the range of ``count`` standard normal values is above with the chance ``level``: scipy.stats'
    ``studentized_range`` with infinite degrees of freedom, without what that takes to import.

    Given the least value z, the others lie within q above it with the chance (Phi(z + q) - Phi(z))^(count - 1).
    """
    from scipy.special import ndtr

    least = np.linspace(-9.0, 9.0, 4001)
    density = np.exp(-(least**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        within = count * np.trapezoid(density * (ndtr(least + middle) - ndtr(least)) ** (count - 1), least)
        low, high = (middle, high) if within < 1 - level else (low, middle)
    return (low + high) / 2


def cliques(mean_places: ArrayLike, difference: float) -> list[tuple[int, ...]]:
    """The largest groups, of two rows or more, whose mean places all lie less than ``difference`` apart; best first."""
    values = np.asarray(mean_places, float)
    return stretches(np.argsort(values, kind="stable"), np.abs(values[:, None] - values) >= difference)


def stretches(order: ArrayLike, apart: ArrayLike) -> list[tuple[int, ...]]:
    """The longest stretches of ``order``, of two rows or more, no two of which are ``apart`` [rows, rows]."""
    rows, told = np.asarray(order, int), np.asarray(apart, bool)
    found: list[tuple[int, ...]] = []
    end = 0
    for start in range(len(rows)):
        before = end
        while end < len(rows) and not told[rows[start:end], rows[end]].any():
            end += 1
        if end > before and end - start > 1:
            found.append(tuple(int(row) for row in rows[start:end]))
    return found
