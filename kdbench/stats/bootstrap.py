"""What other pairs and other seeds might have given, by drawing from those at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdbench.stats.intervals import t_quantile

Floats = NDArray[np.float64]

DRAWS = 4000
#: Numbers of a block of draws, before seeds are averaged.
BLOCK = 1 << 20


class Drawn(NamedTuple):
    """A block of draws.

    ``means`` [rows, choices] over seeds of each different choice of a pair and of seeds of it, which are few;
    ``which`` [draws, pairs] of the choices each draw has.
    """

    means: Floats
    which: NDArray[np.intp]

    def over_pairs(self, values: Floats) -> Floats:
        """The mean [draws, rows] over the pairs of each draw of ``values`` [rows, choices]."""
        return np.asarray(values.T[self.which].mean(axis=1), float)


def redrawn(scores: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Iterator[Drawn]:
    """``scores`` [rows, pairs, seeds] where pairs, then seeds were drawn, in blocks of draws.

    Blocks have as many draws as BLOCK numbers make, so that many rows take little memory. Pairs are drawn with
    replacement, and within each of them its seeds, the same ones for all rows: the two-stage bootstrap of Davison and
    Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
    """
    table = np.asarray(scores, float)
    _, pairs, seeds = table.shape
    random = np.random.default_rng(seed)
    pair = random.integers(pairs, size=(draws, pairs, 1))
    chosen = np.sort(random.integers(seeds, size=(draws, pairs, seeds)), axis=2)  # a mean asks for no order
    choices = np.concatenate([pair, chosen], axis=2)
    step = max(1, BLOCK // table.size)
    for start in range(0, draws, step):
        block = choices[start : start + step]
        different, which = np.unique(block.reshape(-1, 1 + seeds), axis=0, return_inverse=True)
        yield Drawn(table[:, different[:, :1], different[:, 1:]].mean(axis=2), which.reshape(-1, pairs))


def percentiles(values: ArrayLike, n: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """The limits of an interval from draws [draws, ...] of ``n`` pairs, two at least.

    Percentiles of the draws alone make it too narrow for few pairs; these lie as much further out as Student's
    distribution does (Hesterberg, Am. Stat. 69, 2015, "expanded percentiles").
    """
    from scipy.special import ndtr

    tail = float(ndtr(-math.sqrt(n / (n - 1)) * t_quantile(n - 1, level)))
    low, high = np.quantile(np.asarray(values, float), [tail, 1 - tail], axis=0)
    return low, high
