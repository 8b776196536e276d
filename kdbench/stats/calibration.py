"""How often networks are right where they are so sure: the reliability that the calibration error sums up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Bin(NamedTuple):
    """Images whose confidence lies in (``low``, ``high``]: their ``share`` of all; mean confidence and accuracy.

    All are percent, of all images that were counted.
    """

    low: float
    high: float
    images: int
    share: float
    confidence: float
    accuracy: float


def reliability(tables: Sequence[NDArray[np.floating]]) -> list[Bin]:
    """The bins of several networks' images together, without empty ones; ``tables`` as ``scores.binned`` has them."""
    found = np.sum(tables, axis=0, dtype=float)
    total, width = float(found[0].sum()), 100 / found.shape[1]
    return [
        Bin(at * width, (at + 1) * width, int(images), 100 * images / total, 100 * sure / images, 100 * right / images)
        for at, (images, right, sure) in enumerate(found.T.tolist())
        if images
    ]
