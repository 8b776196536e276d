"""What a claim is judged by: an estimate with its interval, and whether that lies where the claim says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdbench.stats.comparisons import compare
from kdbench.stats.intervals import t_interval, t_quantile

Floats = NDArray[np.float64]


class Verdict(StrEnum):
    """What came out of a claim."""

    AGREES = "agrees"
    CONTRADICTS = "contradicts"
    OPEN = "cannot be told"
    #: Trials that it is judged by are missing.
    INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Finding:
    """An estimate of ``n`` values and the interval that it was estimated with; infinite where there is no telling.

    ``images``: of how many images it is a share, where chance is in which images these are and in nothing else.
    """

    estimate: float
    low: float
    high: float
    n: int
    images: int = 0

    def scaled(self, low: float, high: float) -> Finding:
        """The same of what lies between ``low`` and ``high`` as this one does between 0 and 1."""
        estimate, least, most = (low + (high - low) * value for value in (self.estimate, self.low, self.high))
        return Finding(estimate, least, most, self.n, self.images)

    def within(self, low: float, high: float) -> Finding:
        """The same where nothing can lie below ``low`` or above ``high``."""
        if math.isinf(self.low):
            return self
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


@dataclass(frozen=True)
class Bounds:
    """Where a claim says that a value lies: above ``low`` and below ``high``."""

    low: float = -math.inf
    high: float = math.inf

    def judge(self, found: Finding) -> Verdict:
        """AGREES where all of the interval lies inside, CONTRADICTS where all of it lies outside."""
        if found.low > self.low and found.high < self.high:
            return Verdict.AGREES
        if found.high < self.low or found.low > self.high:
            return Verdict.CONTRADICTS
        return Verdict.OPEN


def mean(values: ArrayLike, level: float) -> Finding:
    """The mean of independent ``values``, with Student's interval."""
    sample = _finite(values)
    if not len(sample):
        return _nothing()
    found = t_interval(sample, level)
    low = -math.inf if found.low is None else found.low
    return Finding(found.mean, low, math.inf if found.high is None else found.high, found.n)


def proportion(share: float, images: int, level: float) -> Finding:
    """The ``share`` of so many ``images``, with the interval over others that might have been drawn.

    That of E. B. Wilson, Probable inference, the law of succession, and statistical inference, J. Am. Statist. Assoc.
    22, 1927.
    """
    from scipy.special import ndtri

    z2 = float(ndtri((1 + level) / 2)) ** 2 / images
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return Finding(share, middle - half, middle + half, 1, images)


def difference(scores: ArrayLike, of: int, versus: int, level: float) -> Finding:
    """The mean seed-by-seed difference of two rows of ``scores`` [rows, seeds], nan where a row lacks a seed.

    Its error is from a variance that is moderated over the differences of all rows (stats.comparisons).
    """
    table = np.asarray(scores, float)
    found = compare(table)
    at = found.of(of, versus)
    sign = 1.0 if of < versus else -1.0
    value, half = sign * float(found.difference[at]), found.half(at, level)
    return Finding(value, value - half, value + half, int(found.n[at])) if math.isfinite(value) else _nothing()


def slope(x: ArrayLike, scores: ArrayLike, level: float) -> Finding:
    """How much ``scores`` [settings, seeds] change for each unit of ``x`` [settings].

    By least squares with a mean of its own for each seed, as settings share their seeds; nan where one is missing.
    """
    at, table = np.asarray(x, float), np.asarray(scores, float)
    xs, ys, seeds = [], [], 0
    for column in table.T:
        known = np.isfinite(column) & np.isfinite(at)
        if known.sum() < 2:
            continue
        seeds += 1
        xs.append(at[known] - at[known].mean())
        ys.append(column[known] - column[known].mean())
    if not seeds:
        return _nothing()
    dx, dy = np.concatenate(xs), np.concatenate(ys)
    spread, df = float(dx @ dx), len(dx) - seeds - 1
    if spread == 0:
        return _nothing()
    found = float(dx @ dy) / spread
    if df < 1:
        return Finding(found, -math.inf, math.inf, len(dx))
    error = math.sqrt(float(((dy - found * dx) ** 2).sum()) / df / spread)
    half = t_quantile(df, level) * error
    return Finding(found, found - half, found + half, len(dx))


def share(of: ArrayLike, base: ArrayLike, top: ArrayLike, level: float) -> Finding:
    """What part of the gain of ``top`` over ``base`` the row ``of`` has, all [seeds]: (of - base) / (top - base).

    With the interval of E. C. Fieller, Some problems in interval estimation, J. R. Statist. Soc. B 16, 1954, over the
    seeds; infinite where the gain of ``top`` itself is not shown.
    """
    part, whole = np.asarray(of, float) - np.asarray(base, float), np.asarray(top, float) - np.asarray(base, float)
    known = np.isfinite(part) & np.isfinite(whole)
    part, whole = part[known], whole[known]
    n = len(part)
    if not n or whole.mean() == 0:
        return _nothing()
    estimate = float(part.mean() / whole.mean())
    if n < 2:
        return Finding(estimate, -math.inf, math.inf, n)
    cov = np.cov(part, whole) / n
    t2 = t_quantile(n - 1, level) ** 2
    a, b = float(whole.mean()) ** 2 - t2 * cov[1, 1], float(part.mean() * whole.mean()) - t2 * cov[0, 1]
    c = float(part.mean()) ** 2 - t2 * cov[0, 0]
    inside = b * b - a * c
    if a <= 0 or inside < 0:  # the whole may be nothing
        return Finding(estimate, -math.inf, math.inf, n)
    return Finding(estimate, float((b - math.sqrt(inside)) / a), float((b + math.sqrt(inside)) / a), n)


def rank_correlation(x: ArrayLike, y: ArrayLike, level: float) -> Finding:
    """Spearman's rank correlation of two measures over runs.

    The interval is that of D. G. Bonett and T. A. Wright, Psychometrika 65, 2000: Fisher's z with the error
    sqrt((1 + r^2 / 2) / (n - 3)).
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = _ranks(a[known]), _ranks(b[known])
    n = len(a)
    if n < 2 or a.std() == 0 or b.std() == 0:
        return _nothing()
    r = float(np.corrcoef(a, b)[0, 1])
    if n < 4:
        return Finding(r, -math.inf, math.inf, n)
    from scipy.special import ndtri

    z, half = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12)), float(ndtri((1 + level) / 2))
    half *= math.sqrt((1 + r * r / 2) / (n - 3))
    return Finding(r, math.tanh(z - half), math.tanh(z + half), n)


def between(pairs: ArrayLike, level: float) -> Finding:
    """The mean over all pairs of seeds of ``pairs`` [seeds, seeds], which is symmetric; nan where one is missing.

    A U-statistic of degree 2, with the jackknife's interval (J. N. Arvesen, Jackknifing U-statistics, Ann. Math.
    Statist. 40, 1969): pairs that share a seed are not independent, and seeds are left out whole.
    """
    table = np.asarray(pairs, float)
    known = np.isfinite(np.diagonal(table))
    table = table[np.ix_(known, known)]
    n = len(table)
    if n < 2:
        return _nothing()
    sums = table.sum(1) - np.diagonal(table)
    whole = float(sums.sum())
    estimate = whole / (n * (n - 1))
    if n < 3:
        return Finding(estimate, -math.inf, math.inf, n)
    left_out = (whole - 2 * sums) / ((n - 1) * (n - 2))
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    half = t_quantile(n - 1, level) * error
    return Finding(estimate, estimate - half, estimate + half, n)


def family_level(claims: int, level: float = 0.95) -> float:
    """The level of each of so many intervals that all together hold as often as ``level`` (Bonferroni)."""
    return 1 - (1 - level) / max(claims, 1)


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], float)


def _finite(values: ArrayLike | Sequence[float]) -> Floats:
    sample = np.asarray(values, float).ravel()
    return np.asarray(sample[np.isfinite(sample)], float)


def _nothing() -> Finding:
    return Finding(math.nan, -math.inf, math.inf, 0)
