"""CC: match how the samples of a batch relate to one another in an embedding of the pooled features.

L = ce_weight * CE(y, softmax(z)) + weight * D,

``official``: D = mean_i sum_d |e_i^s - e_i^t|_d |e_(i+1)^s - e_(i+1)^t|_d over neighbours i, i + 1 in the batch, with
e a linear embedding of each side, both trained. It is what RepDistiller has from the authors; it depends on the order
of the batch.
``paper``: D = mean_ij (C_ij^s - C_ij^t)^2, C the Gaussian kernel exp(-gamma ||e_i - e_j||^2) of features of length 1
as its Taylor series, exp(-2 gamma) sum_p (2 gamma e_i.e_j)^p / p! for p = 0..2 and gamma = 0.4, without embeddings.
Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang, "Correlation Congruence for Knowledge Distillation", ICCV 2019,
https://arxiv.org/abs/1904.01802.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec

_GAMMA, _ORDER = 0.4, 2


def neighbour_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Products of the gaps of neighbouring samples' embeddings [N,D] and [N,D]; 0 for a single sample."""
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


def gaussian_kernel(features: Tensor, gamma: float = _GAMMA, order: int = _ORDER) -> Tensor:
    """Taylor series to ``order`` of the Gaussian kernel [N,N] of features [N,D] scaled to length 1."""
    e = F.normalize(full(features))
    exponent = 2 * gamma * (e @ e.mT)
    series = torch.stack([exponent**p / math.factorial(p) for p in range(order + 1)]).sum(dim=0)
    return math.exp(-2 * gamma) * series


class CC(Method):
    ce_weight: float
    weight: float
    dim: int
    variant: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        if self.variant == "official":
            self.embed_s = nn.Linear(student.pooled, self.dim)
            self.embed_t = nn.Linear(teacher.pooled, self.dim)

    def loss(self, step: Step) -> dict[str, Tensor]:
        assert step.student.pooled is not None, "the card's needs list pooled"
        assert step.taught.pooled is not None, "the card's needs list pooled"
        student, teacher = full(step.student.pooled), full(step.taught.pooled).detach()
        if self.variant == "official":
            distance = neighbour_loss(self.embed_s(student), self.embed_t(teacher))
        else:
            distance = F.mse_loss(gaussian_kernel(student), gaussian_kernel(teacher))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "correlation": self.weight * distance,
        }
