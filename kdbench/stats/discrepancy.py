"""How far two networks' features of the same kind of images are apart, and whether one classifier serves both.

The parts of a bound on a student's error (Ben-David et al., A theory of learning from different domains, Machine
Learning 79, 2010, theorem 2): the teacher's error, half the divergence, and the error of the best joint classifier,
``error_S <= error_T + d / 2 + lambda``. Here each is an estimate by linear classifiers, and not the bound itself.

Classifiers are trained by regularised least squares on every other row, on standardised columns, and judged on the rows
between: nothing is drawn, and equal arrays give equal numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Of the mean squared feature, what is added to it: the least squares' regularisation.
RIDGE = 1e-3
#: Rows that the kernel's distance is estimated on.
KERNEL_ROWS = 1000


def h_divergence(source: Floats, target: Floats) -> float:
    """2 (1 - 2 e), with e the error of a linear classifier that tells rows [N,D] of one from those of the other.

    The proxy of Ben-David et al., Analysis of representations for domain adaptation, NIPS 2006: from 0, where there is
    no telling, to 2. Rows are in the same order of images, so that both sides of a row are trained on, or judged on.
    """
    rows = np.stack([source, target])
    sides = np.broadcast_to(np.array([0, 1])[:, None], rows.shape[:2])
    error = float(np.mean(_errors(rows, sides, 2)))
    return max(0.0, 2 * (1 - 2 * error))


def joint_error(source: Floats, target: Floats, labels: NDArray[np.integer], classes: int) -> float:
    """The lambda of the bound: the errors on both of one linear classifier that is trained on both, summed; 0 to 2."""
    rows = np.stack([source, target])
    return float(_errors(rows, np.broadcast_to(labels, rows.shape[:2]), classes).sum())


def mmd(source: Floats, target: Floats) -> float:
    """The maximum mean discrepancy of rows [N,D] under a Gaussian kernel, from 0 to 1.41.

    The biased estimate of Gretton et al., A kernel two-sample test, JMLR 13, 2012, on the first KERNEL_ROWS, with the
    median squared distance of all pairs as the kernel's width.
    """
    rows = np.concatenate([source[:KERNEL_ROWS], target[:KERNEL_ROWS]]).astype(np.float64)
    squares = (rows**2).sum(1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0)
    width = float(np.median(apart[np.triu_indices(len(rows), 1)]))
    kernel = np.exp(-apart / width) if width > 0 else (apart == 0).astype(float)
    half = min(len(source), KERNEL_ROWS)
    found = kernel[:half, :half].mean() + kernel[half:, half:].mean() - 2 * kernel[:half, half:].mean()
    return float(np.sqrt(max(found, 0.0)))


def _errors(rows: Floats, labels: NDArray[np.integer], classes: int) -> Floats:
    """The errors [2] on the odd rows of each side of ``rows`` [2,N,D] of a classifier of the even rows of both."""
    seen, shown = rows[:, ::2].reshape(-1, rows.shape[2]), rows[:, 1::2]
    mean, deviation = seen.mean(0), seen.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)

    def prepared(x: Floats) -> Floats:
        scaled = (x - mean) / deviation
        return np.concatenate([scaled, np.ones((*x.shape[:-1], 1))], axis=-1)

    x, wanted = prepared(seen), np.eye(classes)[labels[:, ::2].ravel()]
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ wanted)
    return np.asarray((((prepared(shown) @ weights).argmax(-1)) != labels[:, 1::2]).mean(1), float)
