"""Variances of a suite's cells, each moderated towards what they have in common.

Three seeds say little of a cell's variance, and the cells of a suite say much of one another's. Smyth, "Linear models
and empirical Bayes methods for assessing differential expression", Stat. Appl. Genet. Mol. Biol. 3, 2004, article 3:
the cells' true variances are taken to be ``variance * df / chi2(df)``, both figures are estimated from all cells
(section 6.2), and each cell's own estimate is averaged with them. Where cells differ no more than chance would have it,
that is plain pooling; where they differ much, each keeps its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: A variance of zero, as rounded accuracies give it, counts as this share of the median one: its logarithm is needed.
SMALLEST = 1e-5


@dataclass(frozen=True, slots=True)
class Prior:
    """What cells have in common: a ``variance``, worth ``df`` degrees of freedom; infinitely many where all agree."""

    df: float
    variance: float


def common(variances: ArrayLike, df: ArrayLike) -> Prior:
    """The Prior of sample ``variances`` with ``df`` degrees of freedom each; those with none say nothing.

    Without any, or where all are zero, it is worth nothing.
    """
    s2, d = _pairs(variances, df)
    s2, d = s2[d > 0], d[d > 0]
    if not len(s2) or not s2.max() > 0:
        return Prior(0.0, 0.0)
    pooled = float(np.average(s2, weights=d))
    if len(s2) == 1:
        return Prior(0.0, pooled)
    from scipy.special import digamma, polygamma

    middle = float(np.median(s2)) or pooled
    logs = np.log(np.maximum(s2, SMALLEST * middle)) - digamma(d / 2) + np.log(d / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, d / 2).mean())
    if excess <= 0:
        return Prior(math.inf, pooled)
    half = _trigamma_inverse(excess)
    return Prior(2 * half, math.exp(float(logs.mean()) + float(digamma(half)) - math.log(half)))


def moderated(variances: ArrayLike, df: ArrayLike, prior: Prior, most: float = math.inf) -> tuple[Floats, Floats]:
    """Each of ``variances`` averaged with the ``prior``, and the degrees of freedom that it then has.

    At most ``most`` of them: no average has more than all observations together. A cell without any variance, its own
    or a prior's, has none.
    """
    s2, d = _pairs(variances, df)
    if math.isinf(prior.df):
        return np.full(len(s2), prior.variance), np.full(len(s2), float(most))
    total = d + prior.df
    mean = (d * s2 + prior.df * prior.variance) / np.where(total > 0, total, 1.0)
    return mean, np.where(mean > 0, np.minimum(total, most), 0.0)


def _pairs(variances: ArrayLike, df: ArrayLike) -> tuple[Floats, Floats]:
    s2, d = np.broadcast_arrays(np.asarray(variances, float), np.asarray(df, float))
    return s2.astype(float), d.astype(float)


def _trigamma_inverse(value: float) -> float:
    """The x whose trigamma is ``value`` > 0, by Newton's method on 1/trigamma, which is nearly a line (Smyth 2004)."""
    from scipy.special import polygamma

    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step < 1e-8 * x:
            break
    return x
