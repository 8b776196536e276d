"""A mean and its confidence interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean of ``n`` values and its interval's limits; ``low`` and ``high`` are None where one value allows none."""

    n: int
    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.high is None else self.high - self.mean


@cache
def t_quantile(df: float, level: float) -> float:
    """The t with probability ``level`` inside (-t, t) under Student's distribution with ``df`` degrees of freedom."""
    # scipy.special, not scipy.stats: the same function at a third of the import time, and only when a page needs it.
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def t_quantiles(df: ArrayLike, level: float) -> NDArray[np.float64]:
    """t_quantile of each of ``df``; infinite where there are none, and the normal distribution's where they are."""
    from scipy.special import ndtri, stdtrit

    d = np.asarray(df, float)
    found = stdtrit(np.where((d > 0) & np.isfinite(d), d, 1.0), (1 + level) / 2)
    return np.where(d <= 0, np.inf, np.where(np.isinf(d), ndtri((1 + level) / 2), found))


def t_tails(t: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """The probability of a value further from 0 than each of ``t``; infinitely many degrees of freedom are normal."""
    from scipy.special import ndtr, stdtr

    away, d = np.broadcast_arrays(-np.abs(np.asarray(t, float)), np.asarray(df, float))
    return np.asarray(2 * np.where(np.isinf(d), ndtr(away), stdtr(np.where(np.isinf(d), 1.0, d), away)))


def t_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Mean of independent ``values`` and its two-sided t-interval; ValueError when there are none.

    Student's interval, mean +- t(n-1) * s / sqrt(n) with s the sample standard deviation.
    """
    sample = list(values)
    n = len(sample)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    mean = math.fsum(sample) / n
    if n == 1:
        return Interval(1, mean)
    variance = math.fsum((v - mean) ** 2 for v in sample) / (n - 1)
    half = t_quantile(n - 1, level) * math.sqrt(variance / n)
    return Interval(n, mean, mean - half, mean + half)


def equivalent(differences: Iterable[float], margin: float, alpha: float = 0.05) -> bool:
    """Whether the mean of ``differences`` is shown to lie within ``margin`` of 0; ValueError when there are none.

    Two one-sided t-tests at ``alpha`` each (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987): the same as whether the
    interval with a probability of 1 - 2 ``alpha`` lies inside (-margin, margin). One difference shows nothing.
    """
    interval = t_interval(differences, 1 - 2 * alpha)
    if interval.low is None or interval.high is None:
        return False
    return -margin < interval.low and interval.high < margin
