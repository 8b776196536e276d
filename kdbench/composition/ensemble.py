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

        each = torch.stack(list(said))
        if self.mean == "geometric":
            return each.mean(0)
        return torch.logsumexp(torch.log_softmax(each, 2), 0) - math.log(len(said))
