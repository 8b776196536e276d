"""How often networks are right where they are so sure: the reliability that the calibration error sums up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdbench.stats.scores import ECE_BINS, bin_of


@dataclass(frozen=True)
class Bin:
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
    images, right, confidence = np.sum(tables, axis=0, dtype=float)
    total, width = images.sum(), 100 / len(images)
    return [
        Bin(
            low=at * width,
            high=(at + 1) * width,
            images=int(images[at]),
            share=float(100 * images[at] / total),
            confidence=float(100 * confidence[at] / images[at]),
            accuracy=float(100 * right[at] / images[at]),
        )
        for at in np.flatnonzero(images)
    ]
