"""SRD: project the student's pooled feature to the teacher's, standardise both over the batch, take a log of distances.

L = ce_weight * CE(y, softmax(z)) + weight * D + kd_weight * mean_B KL(softmax(v) || softmax(z)),

``difference``: D = log sum_(i,d) |s_id - t_id|^4, the authors' code for ResNets on ImageNet;
``correlation``: D = log( 1e-5 + sum_d |1 - c_d|^4 ), c_d = mean_i s_id t_id, their code for DeiT;
s and t are batch normalised without affine part, by this batch's statistics, from the student's feature after a linear
projection and from the teacher's. The first D has no lower bound, and its gradient does not shrink with the mismatch.
Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024,
https://arxiv.org/abs/2303.11098.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.itrd import correlations
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models.outputs import DataSpec, NetworkSpec

_BATCH_NORM_EPS = 1e-4
_LOG_EPS = 1e-5


def difference_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Log of the summed fourth powers of the gaps of standardised features [N,D] and [N,D]."""
    s, t = (F.layer_norm(side.mT, (len(side),), eps=_BATCH_NORM_EPS) for side in (student, teacher))
    total = (s - t).pow(4).sum()
    return total.clamp_min(torch.finfo(total.dtype).tiny).log()


def correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Log of the summed fourth powers of what each dimension's correlation lacks to 1, of features [N,D] and [N,D]."""
    return ((1 - correlations(student, teacher)).pow(4).sum() + _LOG_EPS).log()


class SRD(Method):
    ce_weight: float
    weight: float
    kd_weight: float
    form: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.projector = nn.Linear(student.pooled, teacher.pooled)

    def loss(self, step: Step) -> dict[str, Tensor]:
        assert step.student.pooled is not None, "the card's needs list pooled"
        assert step.taught.pooled is not None, "the card's needs list pooled"
        z, distance = step.student.logits, difference_loss if self.form == "difference" else correlation_loss
        projected = self.projector(full(step.student.pooled))
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "representation": self.weight * distance(projected, full(step.taught.pooled).detach()),
            "kd": self.kd_weight * kd_loss(z, step.taught.logits, 1.0),
        }
