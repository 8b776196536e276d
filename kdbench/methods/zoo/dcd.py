"""DCD: each student embedding shall pick its own teacher embedding out of the batch, and be picked by it alike.

L = ce_weight * CE(y, softmax(z)) + weight * [ CE(i, A_i.) + alpha * 1/B sum_i KL( softmax(A_.i) || softmax(A_i.) ) ],
A_ij = min(e^theta, 10) s_i.t_j + b,

s and t linear embeddings of the pooled features scaled to length 1; both embeddings, theta and b are trained, and both
sides of the divergence carry a gradient.
Giakoumoglou and Stathaki, "Discriminative and Consistent Representation Distillation", 2024,
https://arxiv.org/abs/2407.11802.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec

_LARGEST = 10.0  # factor e^theta


def consistency(affinities: Tensor) -> Tensor:
    """Mean KL of each row's softmax from that of the column of the same number, of affinities [N,N]."""
    rows, columns = F.log_softmax(affinities, dim=1), F.log_softmax(affinities.mT, dim=1)
    return F.kl_div(rows, columns, reduction="batchmean", log_target=True)


class DCD(Method):
    ce_weight: float
    weight: float
    alpha: float
    dim: int

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.embed_s = nn.Linear(student.pooled, self.dim)
        self.embed_t = nn.Linear(teacher.pooled, self.dim)
        self.theta = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def affinities(self, student: Tensor, teacher: Tensor) -> Tensor:
        """A [N,N], rows students and columns teachers, of pooled features [N,D_s] and [N,D_t]."""
        s, t = F.normalize(self.embed_s(student)), F.normalize(self.embed_t(teacher.detach()))
        return self.theta.exp().clamp_max(_LARGEST) * (s @ t.mT) + self.bias

    def loss(self, step: Step) -> dict[str, Tensor]:
        assert step.student.pooled is not None, "the card's needs list pooled"
        assert step.taught.pooled is not None, "the card's needs list pooled"
        a = self.affinities(full(step.student.pooled), full(step.taught.pooled))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "contrast": self.weight * F.cross_entropy(a, torch.arange(len(a), device=a.device)),
            "consistency": self.weight * self.alpha * consistency(a),
        }
