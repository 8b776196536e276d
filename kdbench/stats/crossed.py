"""Seeds and test images as two sources of error.

A difference of two methods would be another one under other seeds, and another one on other test images. Every seed
meets every image, so what they add to its variance is estimated by a two-way analysis of variance with one observation
a cell (Searle, Casella and McCulloch, "Variance Components", 1992, section 4.3): the mean of n seeds and K images has
the variance (MS_seeds + MS_images - MS_rest) / nK. A bootstrap that draws both counts the rest three times (Owen, Ann.
Appl. Stat. 1, 2007), which at three seeds makes it far too wide.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from kdbench.stats.intervals import Interval, t_quantiles


def crossed_interval(gaps: ArrayLike, level: float = 0.95, seeds: tuple[float, float] | None = None) -> Interval:
    """The mean of ``gaps`` [seeds, images] and its interval over both; without limits where there is one of either.

    ``seeds``: the variance of the means over images between seeds and its degrees of freedom, where more is known of it
    than these seeds say.
    """
    table = np.asarray(gaps, float)
    n, images = table.shape
    mean = float(table.mean())
    if n < 2 or images < 2:
        return Interval(n, mean)
    of_seeds, of_images = table.mean(axis=1), table.mean(axis=0)
    rest = table - of_seeds[:, None] - of_images + mean
    variance, df = seeds or (float(of_seeds.var(ddof=1)), n - 1.0)
    ms_seeds, ms_images = images * variance, n * float(of_images.var(ddof=1))
    ms_rest = float((rest**2).sum()) / ((n - 1) * (images - 1))
    # Seeds that differ less than the rest would make them show no variance of their own, and no negative one.
    total = max(ms_seeds - ms_rest, 0.0) + ms_images
    doubt = ms_seeds**2 / df + ms_images**2 / (images - 1) + ms_rest**2 / ((n - 1) * (images - 1))
    if not doubt > 0:
        return Interval(n, mean)
    # Satterthwaite, Biometrics Bull. 2, 1946.
    half = float(t_quantiles(max(total**2 / doubt, 1.0), level)) * math.sqrt(total / (n * images))
    return Interval(n, mean, mean - half, mean + half)
