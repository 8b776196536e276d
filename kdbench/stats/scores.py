"""Accuracy, likelihood and calibration from stored predictions; the worker and the site call the same functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


def top_k_accuracy(top: NDArray[np.integer], labels: NDArray[np.integer], k: int) -> float:
    """Percent of rows whose label is in the first ``k`` columns of ``top`` [N, >=k], classes by falling probability."""
    return float((top[:, :k] == labels[:, None]).any(axis=1).mean() * 100)


def nll(log_p_true: NDArray[np.floating]) -> float:
    """Mean negative log-probability of the true class [N], in nats."""
    return float(-log_p_true.astype(np.float64).mean())


def ece(top_p: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """Expected calibration error (Guo et al.

    2017, arXiv:1706.04599): bins of equal width over (0, 1], weighted by their size.
    """
    confidence = top_p.astype(np.float64)
    gaps = np.bincount(bin_of(confidence, bins), weights=correct.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def bin_of(confidence: NDArray[np.float64], bins: int = ECE_BINS) -> NDArray[np.intp]:
    """Which of the ``bins`` of equal width over (0, 1] each confidence [N] lies in."""
    return np.asarray(np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1), np.intp)


def score_predictions(arrays: Mapping[str, NDArray[Any]], selection: str) -> dict[str, float]:
    """top1, top5 (percent), nll and ece of one selection of a prediction file (see docs/records.md for its arrays)."""
    hits = arrays[f"{selection}_top5"][:, :5] == arrays["labels"][:, None]
    return {
        "top1": float(hits[:, 0].mean() * 100),
        "top5": float(hits.any(axis=1).mean() * 100),
        "nll": nll(arrays[f"{selection}_log_p_true"]),
        "ece": ece(arrays[f"{selection}_top_p"], hits[:, 0]),
    }
