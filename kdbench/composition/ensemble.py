"""An ensemble: several teachers, whose mean teaches.

p = mean_m softmax(v_m) (arithmetic), or p in proportion to exp(mean_m v_m) (geometric), with the logits v_m of each.
Hinton, Vinyals and Dean distil either mean into one network (arXiv:1503.02531, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kdbench.composition.base import Composition

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.models.composed import Told

MEANS = ("arithmetic", "geometric")


@dataclass(frozen=True)
class Ensemble(Composition):
    """``mean``: of the probabilities, whose logarithm the logits are (``arithmetic``), or of logits (``geometric``)."""

    SUMMARY: ClassVar[str] = "several teachers, whose mean teaches"
    SOURCE: ClassVar[str] = "arXiv:1503.02531"
    kind: str = field(init=False, default="ensemble")
    mean: str = "arithmetic"

    def problem(self) -> str:
        return "" if self.mean in MEANS else f"mean must be one of {', '.join(MEANS)}"

    def speak(self, said: Sequence[Tensor], told: Told) -> Tensor:
        import torch

        # One by one: torch sums over the first dimension in another order where a vector is not full, and what is said
        # of an image would hang on where it stands in its batch.
        if self.mean == "geometric":
            return sum(said[1:], said[0]) / len(said)
        each = [torch.log_softmax(logits, 1) for logits in said]
        most = torch.stack(each).amax(0)
        shares = [torch.exp(logs - most) for logs in each]
        return most + torch.log(sum(shares[1:], shares[0])) - math.log(len(said))
