"""Many tests at once, and the same tests again and again as seeds are added: what keeps their errors rare together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: The share of suites in which chance alone may set any two rows or any cell apart. Where the cells' spreads are very
#: unequal, tests on few seeds err up to half as often again (docs/statistics.md): 4 % nominal keeps that near 5 %.
LEVEL = 0.04
#: Of the level, the share that may be spent once a share t of the seeds is there: t to this power, so that early looks
#: cost little. Kim and DeMets, Biometrika 74, 1987.
SPENDING = 3.0
#: Points of the grid on which densities are integrated.
GRID = 201


def holm(p: ArrayLike) -> Floats:
    """Adjusted p-values: with those below a level rejected, any false rejection is as rare as that level.

    Holm, Scand. J. Stat. 6, 1979.
    """
    values = np.asarray(p, float)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return adjusted


def rejected(p: ArrayLike, looks: Sequence[int], level: float = LEVEL) -> NDArray[np.intp]:
    """For p-values [looks, tests], the look at which each test is rejected, or -1; nan where a test had no such look.

    Any false rejection at any look is as rare as ``level``: Holm's procedure with each test's share of the level spent
    over its looks (Ye, Li, Liu and Yao, Stat. Med. 32, 2013). With one look it is Holm's.
    """
    values = np.asarray(p, float)
    at = np.full(values.shape[1], -1)
    for number, row in enumerate(values):
        while (open_ := at < 0).any():
            found = open_ & (row <= bounds(level / int(open_.sum()), tuple(looks))[number])
            if not found.any():
                break
            at[found] = number
    return at


@cache
def bounds(level: float, looks: tuple[int, ...]) -> tuple[float, ...]:
    """Two-sided nominal levels at ``looks``, numbers of seeds that grow: all together err with the share ``level``.

    Lan and DeMets, Biometrika 70, 1983; the density of the estimate that has crossed no bound so far is followed from
    look to look (Armitage, McPherson and Rowe, J. R. Stat. Soc. A 132, 1969). One look has the whole level.
    """
    if len(looks) == 1:
        return (level,)
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    shares = np.asarray(looks, float) / looks[-1]
    spent = level * np.diff(shares**SPENDING, prepend=0.0)
    nominal = [float(spent[0])]
    edge = float(-ndtri(spent[0] / 2) * np.sqrt(shares[0]))
    grid = np.linspace(-edge, edge, GRID)
    density = np.exp(-(grid**2) / (2 * shares[0])) / np.sqrt(2 * np.pi * shares[0])
    for before, share, cost in zip(shares, shares[1:], spent[1:], strict=False):
        step = float(np.sqrt(share - before))
        weights = density * np.gradient(grid)
        weights[[0, -1]] /= 2
        edge = float(brentq(lambda bound: _crossing(bound, grid, weights, step) - cost, 0.0, 40.0))  # noqa: B023
        nominal.append(float(2 * ndtr(-edge / np.sqrt(share))))
        wider = np.linspace(-edge, edge, GRID)
        density = (np.exp(-(((wider[:, None] - grid) / step) ** 2) / 2) @ weights) / (step * np.sqrt(2 * np.pi))
        grid = wider
    return tuple(nominal)


def _crossing(bound: float, grid: Floats, weights: Floats, step: float) -> float:
    """The chance that an estimate at ``grid``, with ``weights``, is beyond ``bound`` to either side a ``step`` on."""
    from scipy.special import ndtr

    return float(weights @ (ndtr((grid - bound) / step) + ndtr((-bound - grid) / step)))


def looks_up_to(first: int, most: int) -> tuple[int, ...]:
    """Numbers of seeds at which to look: ``first``, then about half as many again each time, ``most`` at last."""
    found = [min(first, most)]
    while found[-1] < most:
        found.append(min(max(-(-found[-1] * 3 // 2), found[-1] + 1), most))
    return tuple(found)
