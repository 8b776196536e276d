"""What other pairs and other seeds might have given, by drawing from those at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def percentiles(values: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """The limits between which the middle ``level`` of the draws lie, for ``values`` [draws, ...]."""
    low, high = np.quantile(np.asarray(values, float), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
