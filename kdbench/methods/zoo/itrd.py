"""ITRD: raise the correlation of the embeddings' dimensions, and what the batch's Gram matrices share.

L = ce_weight * CE(y, softmax(z)) + correlation_weight * log2 sum_d |c_d - 1|^(2 alpha)
    + mutual_weight * sum_ij [ ( G / tr G )_ij^2 - ( G * H / tr(G * H) )_ij^2 ],

with c_d = 1/B sum_i of the product of dimension d of student and teacher, each standardised over the batch with the
unbiased standard deviation, and G and H the cosines between the samples' embeddings of student and teacher, multiplied
entry by entry; a trace counts the samples whose embedding is not zero. The student's pooled feature is embedded
linearly in the teacher's dimensions; the second term takes it as it is where the two have equal dimensions, as the
authors' code does.
Miles, Lopez-Rodriguez and Mikolajczyk, "Information Theoretic Representation Distillation", BMVC 2022,
https://arxiv.org/abs/2112.00459.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.lskd import standardise
from kdbench.models.outputs import DataSpec, NetworkSpec


def correlations(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation [D] of each dimension of embeddings [N,D] and [N,D]; 0 where one is the same for the whole batch."""
    s, t = (standardise(side.mT, unbiased=False, epsilon=0.0) for side in (student, teacher))
    return (s * t).mean(dim=1)


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """log2 sum_d |c_d - 1|^(2 alpha) of embeddings [N,D] and [N,D]."""
    n = len(student)
    total = (correlations(student, teacher) * (n - 1) / n - 1).abs().pow(2 * alpha).sum()
    return total.clamp_min(torch.finfo(total.dtype).tiny).log2()


def _shares(gram: Tensor) -> Tensor:
    return gram / gram.trace().clamp_min(torch.finfo(gram.dtype).tiny)


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """What the second term says of features [N,D_s] and [N,D_t]."""
    s, t = F.normalize(student), F.normalize(teacher)
    gram = s @ s.mT
    return (_shares(gram).square() - _shares(gram * (t @ t.mT)).square()).sum()


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
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "correlation": self.correlation_weight * correlation_loss(embedded, teacher, self.alpha),
            "mutual": self.mutual_weight * mutual_loss(student if same else embedded, teacher),
        }
