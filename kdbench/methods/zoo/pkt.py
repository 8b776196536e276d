"""PKT: match, for each sample, the probability of choosing every other sample as its neighbour.

L = ce_weight * CE(y, softmax(z)) + weight * mean_ij p_ij log( (p_ij + eps) / (q_ij + eps) ),

p_ij = k_ij / sum_j k_ij of the teacher and q of the student, k_ij = (cos(e_i, e_j) + 1) / 2 of pooled features e. As in
the published implementations the mean runs over all B^2 entries, a sample with itself included; eps = 1e-7.
Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
https://arxiv.org/abs/1803.10837.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from kdbench.methods.base import Method, Step, full

_EPS = 1e-7


def neighbour_probabilities(features: Tensor) -> Tensor:
    """Row-normalised cosine similarities, mapped to [0,1], of features [N,D]: [N,N]."""
    features = full(features)
    e = features / (vector_norm(features, dim=1, keepdim=True) + _EPS)
    kernel = (e @ e.mT + 1) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)


def transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over [N,N] of the divergence of features [N,D_s] from [N,D_t]; no gradient to ``teacher``."""
    with torch.no_grad():
        p = neighbour_probabilities(teacher)
    return (p * ((p + _EPS) / (neighbour_probabilities(student) + _EPS)).log()).mean()


class PKT(Method):
    ce_weight: float
    weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        student, teacher = step.student.pooled, step.taught.pooled
        assert student is not None, "the card's needs list pooled"
        assert teacher is not None, "the card's needs list pooled"
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "transfer": self.weight * transfer_loss(student, teacher),
        }
