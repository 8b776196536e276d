"""SP: samples that the teacher sees as similar shall look similar to the student.

L = ce_weight * CE(y, softmax(z)) + weight * || R(F_s F_s^T) - R(F_t F_t^T) ||_F^2 / B^2,

with F the last stage's maps, flattened to a row for each of the B samples of the batch, and R scaling rows to length 1.
Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, https://arxiv.org/abs/1907.09682.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def similarities(maps: Tensor) -> Tensor:
    """Inner products [N,N] of the flattened maps [N,...], each row scaled to length 1."""
    flat = full(maps).flatten(1)
    return F.normalize(flat @ flat.mT)


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities of maps [N,...] and [N,...]; no gradient to ``teacher``."""
    with torch.no_grad():
        target = similarities(teacher)
    return F.mse_loss(similarities(student), target)


class SP(Method):
    ce_weight: float
    weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "similarity": self.weight * similarity_loss(step.student.stages[-1], step.taught.stages[-1]),
        }
