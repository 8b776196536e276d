"""Rows over many pairs, and accuracy beside cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def profile(scores: ArrayLike, gaps: ArrayLike) -> NDArray[np.float64]:
    """[rows, gaps]: the share of pairs on which a row of ``scores`` [rows, pairs] is within each gap of the best row.

    The performance profiles of Dolan and More, Math. Program. 91, 2002, with differences in the place of ratios.
    """
    table = np.asarray(scores, float)
    behind = table.max(axis=0) - table
    return np.asarray((behind[:, :, None] <= np.asarray(gaps, float) + 1e-9).mean(axis=1), float)


def front(costs: ArrayLike, scores: ArrayLike) -> NDArray[np.bool_]:
    """Which rows are on the Pareto front: no other costs as little and scores as much, and one of both strictly."""
    cost, score = np.asarray(costs, float), np.asarray(scores, float)
    no_worse = (cost[:, None] <= cost) & (score[:, None] >= score)
    strictly = (cost[:, None] < cost) | (score[:, None] > score)
    return np.asarray(~(no_worse & strictly).any(axis=0), bool)
