"""The bias of classes that a network was never shown, corrected after its training.

Hinton, Vinyals and Dean (arXiv:1503.02531, section 3) raise the bias of a digit that the transfer set left out, by what
leaves the fewest errors on the test set. Raising the biases of all classes that were left out by one number is the same
as lowering those of the others by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Bits of ``right``: the true class is the likeliest of those that were shown, or of those that were left out.
SHOWN, LEFT_OUT = 1, 2


@dataclass(frozen=True)
class Leads:
    """What N images say of such a bias, whatever it will be.

    ``lead`` [N]: the highest logit of the classes that were left out, less that of those that were shown, so that an
    image is taken for one of the first where lead + bias > 0. ``right`` [N]: SHOWN, LEFT_OUT or 0.
    """

    lead: NDArray[np.floating]
    right: NDArray[np.integer]

    def errors(self, bias: float) -> int:
        """How many of the images are classified wrongly under ``bias``."""
        moved = self.lead.astype(np.float64) + bias > 0
        return int((self.right != np.where(moved, LEFT_OUT, SHOWN)).sum())


def leads(logits: ArrayLike, labels: NDArray[np.integer], left_out: NDArray[np.integer]) -> Leads:
    """The Leads of ``logits`` [N,K] where the classes ``left_out`` were not shown, in the form that is stored."""
    z, away = np.asarray(logits, np.float64), np.asarray(left_out)
    here = np.setdiff1d(np.arange(z.shape[1]), away)
    lead = np.clip(z[:, away].max(1) - z[:, here].max(1), -60000, 60000)
    shown, other = here[z[:, here].argmax(1)] == labels, away[z[:, away].argmax(1)] == labels
    return Leads(lead.astype(np.float16), (SHOWN * shown + LEFT_OUT * other).astype(np.int8))


def best_bias(found: Leads) -> float:
    """The bias that leaves the fewest errors: 0 if it is as good as any, else the middle of the nearest best range.

    The search is exact: errors change only where an image changes hands, at minus its lead.
    """
    at = -found.lead.astype(np.float64)
    order = np.argsort(at, kind="stable")
    change = ((found.right == SHOWN).astype(int) - (found.right == LEFT_OUT).astype(int))[order]
    ends, first = np.unique(at[order], return_index=True)
    # Errors in each range between two ends: beyond the last of which all images have changed hands.
    errors = np.concatenate([[0], np.cumsum(np.add.reduceat(change, first))])
    low, high = np.concatenate([[ends[0] - 2], ends]), np.concatenate([ends, [ends[-1] + 2]])
    best = errors == errors.min()
    if bool((best & (low < 0) & (high >= 0)).any()):
        return 0.0
    nearest = np.where(best, np.minimum(abs(low), abs(high)), np.inf).argmin()
    return float((low[nearest] + high[nearest]) / 2)


def corrected(arrays: Mapping[str, NDArray[Any]], selection: str) -> dict[str, float]:
    """Test errors of a ``selection`` of a prediction file with the bias corrected, where the file has the leads.

    ``bias`` is chosen on held-out images; ``bias_on_test``, an oracle, on the test images themselves.
    """
    if f"{selection}_lead" not in arrays:
        return {}
    test, held_out = (
        Leads(arrays[f"{selection}_{part}lead"], arrays[f"{selection}_{part}right"]) for part in ("", "held_out_")
    )
    bias, on_test = best_bias(held_out), best_bias(test)
    return {
        "errors_uncorrected": test.errors(0.0),
        "bias": bias,
        "errors_corrected": test.errors(bias),
        "bias_on_test": on_test,
        "errors_corrected_on_test": test.errors(on_test),
    }
