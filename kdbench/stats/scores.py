"""Accuracy, likelihood and calibration from stored predictions; the worker and the site call the same functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


class Judged(NamedTuple):
    """What one selection of a prediction file of N images says.

    ``scores``: top1, top5 (percent), nll (nats) and ece. ``right`` [N]: whether the likeliest class is the true one.
    ``binned`` [3, ECE_BINS], for each bin of confidence: images, those that are right, the sum of confidences.
    """

    scores: dict[str, float]
    right: NDArray[np.bool_]
    binned: NDArray[np.float64]


def judge(arrays: Mapping[str, NDArray[Any]], selection: str) -> Judged:
    """Judge one selection of a prediction file (see docs/records.md for its arrays)."""
    hits = np.ascontiguousarray(arrays[f"{selection}_top5"].T[:5]) == arrays["labels"]  # a class a row: quicker to join
    confidence = arrays[f"{selection}_top_p"].astype(np.float64)
    found = _binned(confidence, hits[0], ECE_BINS)
    scores = {
        "top1": _percent(hits[0]),
        "top5": _percent(hits.any(axis=0)),
        "nll": nll(arrays[f"{selection}_log_p_true"]),
        "ece": _error(found),
    }
    return Judged(scores, hits[0], found)


def score_predictions(arrays: Mapping[str, NDArray[Any]], selection: str) -> dict[str, float]:
    """top1, top5 (percent), nll and ece of one selection of a prediction file."""
    return judge(arrays, selection).scores


def top_k_accuracy(top: NDArray[np.integer], labels: NDArray[np.integer], k: int) -> float:
    """Percent of rows whose label is in the first ``k`` columns of ``top`` [N, >=k], classes by falling probability."""
    return _percent((top.T[:k] == labels).any(axis=0))


def nll(log_p_true: NDArray[np.floating]) -> float:
    """Mean negative log-probability of the true class [N], in nats."""
    return float(-log_p_true.astype(np.float64).mean())


def ece(top_p: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """Expected calibration error (Guo et al.

    2017, arXiv:1706.04599): bins of equal width over (0, 1], weighted by their size.
    """
    return _error(binned(top_p, correct, bins))


def binned(top_p: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = ECE_BINS) -> NDArray[np.float64]:
    """[3, bins], for each bin of confidence ``top_p`` [N]: images, those that are ``correct``, sum of confidences."""
    return _binned(top_p.astype(np.float64), correct, bins)


def _bin_of(confidence: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    which = np.ceil(confidence * bins).astype(np.intp)
    which -= 1
    return which.clip(0, bins - 1, out=which)


def _percent(hits: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(hits) / len(hits) * 100)


def _error(found: NDArray[np.float64]) -> float:
    images, right, sure = found
    return float(np.abs(right - sure).sum() / images.sum())


def _binned(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> NDArray[np.float64]:
    which = _bin_of(confidence, bins)
    sure = np.bincount(which, confidence, bins)
    which += bins * correct  # those that are right stand in bins of their own
    wrong, right = np.bincount(which, minlength=2 * bins).reshape(2, bins)
    return np.array([wrong + right, right, sure], float)
