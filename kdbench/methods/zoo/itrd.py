"""ITRD: raise the correlation of the embeddings' dimensions, and what the batch's Gram matrices share.

L = ce_weight * CE(y, softmax(z)) + correlation_weight * log2 sum_d |c_d - 1|^(2 alpha)
    + mutual_weight * 1/B^2 sum_ij [ G_ij^2 - (G_ij H_ij)^2 ],

with c_d = 1/B sum_i of the product of dimension d of student and teacher, each standardised over the batch with the
unbiased standard deviation, and G and H the cosines between the samples' embeddings of student and teacher. The
student's pooled feature is embedded linearly in the teacher's dimensions; the second term takes it as it is where the
two have equal dimensions, as the authors' code does.
Miles, Lopez-Rodriguez and Mikolajczyk, "Information Theoretic Representation Distillation", BMVC 2022,
https://arxiv.org/abs/2112.00459.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec

_EPS = 1e-10  # variance: keeps a dimension that is the same for the whole batch finite


def standardise(features: Tensor, eps: float = _EPS) -> Tensor:
    """Features [N,D], each dimension minus its mean over its population standard deviation in the batch."""
    return F.layer_norm(features.mT, (len(features),), eps=eps).mT


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """log2 sum_d |c_d - 1|^(2 alpha) of embeddings [N,D] and [N,D]."""
    n = len(student)
    correlation = (standardise(student) * standardise(teacher)).mean(dim=0) * (n - 1) / n
    total = (correlation - 1).abs().pow(2 * alpha).sum()
    return total.clamp_min(torch.finfo(total.dtype).tiny).log2()


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over [N,N] of G^2 (1 - H^2), G and H the cosines between features [N,D_s] and between [N,D_t]."""
    s, t = F.normalize(student), F.normalize(teacher)
    return ((s @ s.mT).square() * (1 - (t @ t.mT).square())).mean()


class ITRD(Method):
    ce_weight: float
    correlation_weight: float
    mutual_weight: float
    alpha: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.embed = nn.Linear(student.pooled, teacher.pooled)

    def loss(self, step: Step) -> dict[str, Tensor]:
        assert step.student.pooled is not None, "the card's needs list pooled"
        assert step.taught.pooled is not None, "the card's needs list pooled"
        student, teacher = full(step.student.pooled), full(step.taught.pooled).detach()
        embedded = self.embed(student)
        same = student.shape[1] == teacher.shape[1]
        return {
            "ce": self.ce_weight * F.cross_entropy(full(step.student.logits), step.y),
            "correlation": self.correlation_weight * correlation_loss(embedded, teacher, self.alpha),
            "mutual": self.mutual_weight * mutual_loss(student if same else embedded, teacher),
        }
