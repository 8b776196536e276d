"""What other pairs and other seeds might have given, by drawing from those at hand."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdbench.stats.intervals import t_quantile

Floats = NDArray[np.float64]

DRAWS = 4000


def redrawn(scores: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Means over seeds [draws, rows, pairs] of ``scores`` [rows, pairs, seeds] where pairs, then seeds were drawn.

    Pairs are drawn with replacement, and within each of them its seeds, the same ones for all rows: the two-stage
    bootstrap of Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
    """
    table = np.asarray(scores, float)
    _, pairs, seeds = table.shape
    random = np.random.default_rng(seed)
    pair = random.integers(pairs, size=(draws, pairs, 1))
    chosen = random.integers(seeds, size=(draws, pairs, seeds))
    return np.asarray(np.moveaxis(table[:, pair, chosen].mean(axis=3), 0, 1), float)


def percentiles(values: ArrayLike, n: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """The limits of an interval from draws [draws, ...] of ``n`` pairs, two at least.

    Percentiles of the draws alone make it too narrow for few pairs; these lie as much further out as Student's
    distribution does (Hesterberg, Am. Stat. 69, 2015, "expanded percentiles").
    """
    from scipy.special import ndtr

    tail = float(ndtr(-math.sqrt(n / (n - 1)) * t_quantile(n - 1, level)))
    low, high = np.quantile(np.asarray(values, float), [tail, 1 - tail], axis=0)
    return low, high
