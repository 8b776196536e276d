"""Two rows wherever both were measured: the difference on each pair, over all of them, and whether pairs disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbench.stats.intervals import Interval, t_quantiles
from kdbench.stats.standings import Standings

#: Below this p-value of Cochran's Q, pairs are said to disagree.
DISAGREE = 0.05


@dataclass(frozen=True)
class Meeting:
    """Two rows in one table: the first minus the second, in points, paired by seed.

    ``variance`` is that of the mean, moderated over all rows of the table, with ``df`` degrees of freedom; 0 of them
    where one seed is all there is. ``apart``: shown to differ, all comparisons of the table together.
    """

    difference: Interval
    variance: float
    df: float
    apart: bool


def meeting(found: Standings, one: str, other: str) -> Meeting | None:
    """The rows called ``one`` and ``other`` in ``found``; None where they share no seed or one is not compared."""
    places = found.places
    if one not in places or other not in places or one == other:
        return None
    c = found.comparisons
    at = c.of(places[one], places[other])
    n = int(c.n[at])
    if not n:
        return None
    sign = 1 if places[one] < places[other] else -1
    mean, error, df = sign * float(c.difference[at]), float(c.error[at]), float(c.df[at])
    half = float(t_quantiles(df, 0.95)) * error if df > 0 else math.inf
    limits = (mean - half, mean + half) if math.isfinite(half) else (None, None)
    return Meeting(Interval(n, mean, *limits), error**2, df if math.isfinite(half) else 0.0, bool(c.apart[at]))


def pooled(meetings: Sequence[Meeting]) -> Interval | None:
    """The mean of the differences, each pair counting once, and its interval over other seeds on these pairs.

    The variance is the sum of the pairs', with the degrees of freedom of Satterthwaite (Biometrics Bull. 2, 1946).
    ``n`` counts pairs.
    """
    if not meetings:
        return None
    n = len(meetings)
    mean = math.fsum(m.difference.mean for m in meetings) / n
    total = math.fsum(m.variance for m in meetings)
    if any(m.df <= 0 for m in meetings) or not total > 0:
        return Interval(n, mean)
    doubt = math.fsum(m.variance**2 / m.df for m in meetings if math.isfinite(m.df))
    df = total**2 / doubt if doubt > 0 else math.inf
    half = float(t_quantiles(df, 0.95)) * math.sqrt(total) / n
    return Interval(n, mean, mean - half, mean + half)


def disagreement(meetings: Sequence[Meeting]) -> float | None:
    """The p-value of all pairs having one difference: Cochran's Q (Biometrics 10, 1954). None for fewer than two."""
    from scipy.special import chdtrc

    known = [m for m in meetings if m.df > 0 and m.variance > 0]
    if len(known) < 2:
        return None
    means = np.array([m.difference.mean for m in known])
    weights = 1 / np.array([m.variance for m in known])
    q = float((weights * (means - np.average(means, weights=weights)) ** 2).sum())
    return float(chdtrc(len(known) - 1, q))
