"""How often networks are right where they are so sure: the reliability that the calibration error sums up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.stats.scores import ECE_BINS, bin_of


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


def binned(top_p: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = ECE_BINS) -> NDArray[np.float64]:
    """[3, bins], for each bin of confidence ``top_p`` [N]: images, those that are ``correct``, sum of confidences."""
    confidence = top_p.astype(np.float64)
    which = bin_of(confidence, bins)
    return np.array([np.bincount(which, weights, bins) for weights in (None, correct.astype(float), confidence)])


def reliability(tables: Sequence[NDArray[np.floating]]) -> list[Bin]:
    """The bins of several networks' images together, without empty ones; ``tables`` are as ``binned`` makes them."""
    found = np.sum(tables, axis=0, dtype=float)
    total, width = float(found[0].sum()), 100 / found.shape[1]
    return [
        Bin(at * width, (at + 1) * width, int(images), 100 * images / total, 100 * sure / images, 100 * right / images)
        for at, (images, right, sure) in enumerate(found.T.tolist())
        if images
    ]
