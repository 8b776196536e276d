"""Drops of accuracy between two sets of trainings of the same cells: which are shown, which are ruled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from kdbench.stats.intervals import t_quantiles, t_tails
from kdbench.stats.moderation import common, moderated
from kdbench.stats.multiplicity import holm

Floats = NDArray[np.float64]

#: Points of accuracy: a drop of as much is one that matters.
MARGIN = 0.5
#: Seeds of a first look, unless somebody wants more.
FIRST = 3
#: In how many comparisons chance alone may show any drop at all: at the first look, and at one more, on added seeds.
LEVELS = (0.03, 0.02)
#: How surely a drop that is ruled out is ruled out, cell by cell.
CONFIDENCE = 0.95
#: How often the seeds that are asked for should decide, if the drop is what it seems.
POWER = 0.8
#: Seeds that anybody is asked for.
MOST_SEEDS = 100


@dataclass(frozen=True)
class Drops:
    """The drop of each cell, old mean minus new mean, in points: with its standard error and degrees of freedom.

    ``spread`` is the cell's standard deviation over seeds, moderated over all cells. ``p`` is Holm's, for there being
    no drop at all; ``most`` is the one-sided limit: the drop is less. A cell whose ``df`` is 0 has no known spread.
    """

    drop: Floats
    spread: Floats
    df: Floats
    p: Floats
    most: Floats

    def failed(self, margin: float = MARGIN, level: float = LEVELS[0]) -> NDArray[np.bool_]:
        """Shown to have dropped, and by at least half of what matters."""
        return (self.p < level) & (self.drop >= margin / 2)

    def passed(self, margin: float = MARGIN) -> NDArray[np.bool_]:
        """A drop that matters is ruled out."""
        return self.most < margin


def drops(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Drops:
    """Compare the scores of each cell's ``old`` and ``new`` seeds, one of each at least.

    They are not paired: a change as small as another processor leaves equal seeds as little in common as different
    ones.
    """
    (n_old, mean_old, squares_old), (n_new, mean_new, squares_new) = _moments(old), _moments(new)
    drop, own = mean_old - mean_new, n_old + n_new - 2
    variance = (squares_old + squares_new) / np.maximum(own, 1)
    moderate, df = moderated(variance, own, common(variance, own), float(own.sum()))
    known = df > 0
    error = np.where(known, np.sqrt(moderate * (1 / n_old + 1 / n_new)), 1.0)
    tails = t_tails(drop / error, np.where(known, df, 1.0)) / 2
    one_sided = np.where(known, np.where(drop > 0, tails, 1 - tails), 1.0)
    # Half of a two-sided 90 % interval is a one-sided 95 % limit.
    most = drop + error * t_quantiles(df, 2 * CONFIDENCE - 1)
    return Drops(drop, np.sqrt(moderate), df, holm(one_sided), most)


def _moments(cells: Sequence[Sequence[float]]) -> tuple[Floats, Floats, Floats]:
    """Number, mean and sum of squares about the mean of each cell's scores."""
    table = np.array(list(zip_longest(*cells, fillvalue=np.nan)), float).reshape(-1, len(cells))
    n = np.isfinite(table).sum(axis=0).astype(float)
    mean = np.nansum(table, axis=0) / n
    return n, mean, np.nansum((table - mean) ** 2, axis=0)


def seeds_needed(
    drop: float, spread: float, df: float, old: int, new: int, cells: int, margin: float = MARGIN
) -> tuple[int, int] | None:
    """How many (old, new) seeds would decide on a cell if its ``drop`` and ``spread`` are what they seem.

    More new seeds alone where those can do it, else as many on both sides; None where MOST_SEEDS are too few.
    """
    if not df > 0:
        return (max(old, 2), max(new, 2)) if old + new < 3 else None
    counts = np.arange(new + 1, MOST_SEEDS + 1)
    for olds in (np.full(len(counts), old), np.maximum(counts, old)):
        found = np.flatnonzero(_chance(drop, spread * np.sqrt(1 / olds + 1 / counts), df, cells, margin) >= POWER)
        if len(found):
            return int(olds[found[0]]), int(counts[found[0]])
    return None


def detectable(old: Sequence[Sequence[float]], new: int = FIRST, power: float = 0.9) -> Floats:
    """The drop of each cell that ``new`` seeds against its ``old`` ones show with the chance ``power``.

    Infinite where no cell has a spread.
    """
    n, _, squares = _moments(old)
    variance = squares / np.maximum(n - 1, 1)
    moderate, df = moderated(variance, n - 1, common(variance, n - 1), float((n - 1).sum()))
    later = np.where(df > 0, df + new - 1, 0.0)
    wanted = t_quantiles(later, 1 - 2 * LEVELS[0] / max(len(n), 1)) + t_quantiles(later, 2 * power - 1)
    return np.where(df > 0, wanted, np.inf) * np.sqrt(np.where(df > 0, moderate, 1.0) * (1 / n + 1 / new))


def _chance(drop: float, error: Floats, df: float, cells: int, margin: float) -> Floats:
    """How probably a ``drop`` that is estimated with ``error`` is either ruled out or, at a second look, shown."""
    from scipy.special import ndtr

    level = LEVELS[1]

    passing = ndtr((margin - drop) / error - t_quantiles(df, 2 * CONFIDENCE - 1))
    failing = ndtr(drop / error - t_quantiles(df, 1 - 2 * level / cells)) if drop >= margin / 2 else 0.0
    return np.asarray(np.maximum(passing, failing), float)
