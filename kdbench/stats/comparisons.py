"""Two rows beside one another: every pair of a table's rows over their seeds, and two networks on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdbench.stats.intervals import t_quantiles, t_tails
from kdbench.stats.moderation import common, moderated
from kdbench.stats.multiplicity import LEVEL, rejected

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Comparisons:
    """Every pair of rows, ``first`` before ``second``, in this order: the mean seed-by-seed difference of their scores.

    ``error`` is its standard error, from a variance that is moderated over all pairs, with ``df`` degrees of freedom; 0
    of them where there is no telling. ``apart``: shown to differ, all such claims together being wrong as rarely as
    the level.
    """

    rows: int
    first: Ints
    second: Ints
    n: Ints
    difference: Floats
    error: Floats
    df: Floats
    apart: NDArray[np.bool_]

    def halves(self, level: float = 0.95) -> Floats:
        """Half the width of each difference's own interval; infinite where there is no telling."""
        return _halves(self.df, self.error, level)

    def half(self, at: int, level: float = 0.95) -> float:
        """Half the width of the interval of the difference ``at`` this place."""
        return float(_halves(self.df[[at]], self.error[[at]], level)[0])

    def within(self, margin: float, alpha: float = 0.05) -> NDArray[np.bool_]:
        """Which differences are shown to be less than ``margin``, each by two one-sided tests (Schuirmann 1987)."""
        return np.abs(self.difference) + self.halves(1 - 2 * alpha) < margin

    @property
    def better(self) -> NDArray[np.bool_]:
        """[rows, rows]: the row is shown to be better than the column."""
        found = np.zeros((self.rows, self.rows), bool)
        won = self.apart & (self.difference > 0)
        lost = self.apart & (self.difference < 0)
        found[self.first[won], self.second[won]] = True
        found[self.second[lost], self.first[lost]] = True
        return found

    def of(self, row: int, other: int) -> int:
        """Where the comparison of two rows stands."""
        low, high = sorted((row, other))
        if low == high or not 0 <= low < high < self.rows:
            raise IndexError(f"rows {row} and {other} of {self.rows} are not compared")
        return low * (2 * self.rows - low - 1) // 2 + high - low - 1


def _halves(df: Floats, error: Floats, level: float) -> Floats:
    known = df > 0
    return np.where(known, t_quantiles(np.where(known, df, 1.0), level) * error, np.inf)


def compare(scores: ArrayLike, looks: Sequence[int] = (), level: float = LEVEL) -> Comparisons:
    """Compare all rows of ``scores`` [rows, seeds], nan where a row lacks a seed, pair by pair over common seeds.

    Equal seeds share initial weights and the order of the data, so differences are taken seed by seed; two rows that
    share nothing are compared no less rightly, if less finely. ``looks``: numbers of seeds at which it was decided
    whether to train more, the last planned one at the end; without any, seeds were not added until something showed.
    """
    table = np.asarray(scores, float)
    first, second = np.triu_indices(len(table), 1)
    stages = sorted({min(look, table.shape[1]) for look in looks}) if looks else [table.shape[1]]
    seen = [_summary(*_gaps(table[:, :stage]), len(table)) for stage in stages]
    p = np.full((len(stages), len(first)), np.nan)
    before = np.ones(len(first), int)
    for number, (n, mean, error, df) in enumerate(seen):
        tested = (n > before) & (df > 0)
        p[number, tested] = t_tails(mean[tested] / error[tested], df[tested])
        before = np.maximum(before, n)
    n, mean, error, df = seen[-1]
    apart = rejected(p, looks or (1,), level) >= 0
    return Comparisons(len(table), first, second, n, mean, error, df, apart)


def _gaps(table: Floats) -> tuple[Ints, Floats, Floats]:
    """How many differences each two rows have, in ``Comparisons``' order, their mean, and the squares about it.

    One row with all after it, at this row's seeds alone: where each row has few seeds of many, most of the table says
    nothing.
    """
    found = [(np.zeros(0, int), np.zeros(0), np.zeros(0))]
    for row, scores in enumerate(table):
        seeds = np.flatnonzero(np.isfinite(scores))
        gaps = scores[seeds] - table[row + 1 :, seeds]
        n = np.isfinite(gaps).sum(axis=1)
        mean = np.nansum(gaps, axis=1) / np.maximum(n, 1)
        found.append((n, mean, np.nansum((gaps - mean[:, None]) ** 2, axis=1)))
    n, mean, squares = map(np.concatenate, zip(*found, strict=True))
    return n, mean, squares


def _summary(n: Ints, mean: Floats, squares: Floats, rows: int) -> tuple[Ints, Floats, Floats, Floats]:
    """Number, mean, standard error of the mean and its degrees of freedom of the differences of each two rows."""
    own = np.maximum(n - 1, 0)
    variance = squares / np.maximum(own, 1)
    # Differences share rows: R rows on n seeds leave (R - 1)(n - 1) degrees of freedom, however many pairs they make.
    most = float((rows - 1) * max(n.max(initial=0) - 1, 0))
    spread, df = moderated(variance, own, common(variance, own), most)
    return n, np.where(n > 0, mean, np.nan), np.sqrt(spread / np.maximum(n, 1)), np.where(n > 0, df, 0.0)


def mcnemar(right: ArrayLike, other: ArrayLike) -> float:
    """The p-value of two networks being right equally often, from which of the same images each is right on.

    The exact test of McNemar, Psychometrika 12, 1947: of the images on which one alone is right, either is as likely
    to be. It speaks of these two networks, and not of their methods under other seeds.
    """
    from scipy.special import bdtr

    mine, theirs = np.asarray(right, bool), np.asarray(other, bool)
    alone = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    return min(1.0, 2 * float(bdtr(min(alone), sum(alone), 0.5)))
