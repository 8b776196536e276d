"""DIST: match how probabilities vary, over the classes of a sample and over the samples of a class, not their values.

L = ce_weight * CE(y, softmax(z)) + kd_weight * tau^2 [ beta (1 - mean_B rho(rows)) + gamma (1 - mean_K rho(columns)) ],

with rho the Pearson correlation of the rows (inter) and columns (intra) of the probability matrices softmax(z / tau)
and softmax(v / tau) [N,K]. The intra term depends on the batch size.
Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
https://arxiv.org/abs/2205.10536.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full

_EPS = 1e-8


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation [R] of the rows of two matrices [R,C]; where a row of ``a`` is constant, 0 and without a gradient.

    The correlation's gradient there is as large as 1 / _EPS: one step from a classifier that starts at zero would ruin
    the student.
    """
    constant = 16 * torch.finfo(a.dtype).eps * vector_norm(a.detach(), dim=1)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    spread = vector_norm(a, dim=1)
    rho: Tensor = (a * b).sum(dim=1) / (spread * vector_norm(b, dim=1) + _EPS)
    return rho.masked_fill(spread <= constant, 0.0)


def correlation_gaps(z: Tensor, v: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """The inter-class and intra-class terms tau^2 (1 - mean rho) of logits [N,K]; no gradient to ``v``.

    With N = 1 no class varies over the batch: the intra term is the constant tau^2, without a gradient.
    """
    with torch.no_grad():
        p = F.softmax(full(v) / tau, dim=1)
    q = F.softmax(full(z) / tau, dim=1)
    return tau**2 * (1 - pearson(q, p).mean()), tau**2 * (1 - pearson(q.T, p.T).mean())


class DIST(Method):
    ce_weight: float
    kd_weight: float
    beta: float
    gamma: float
    tau: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        inter, intra = correlation_gaps(z, step.taught.logits, self.tau)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "inter": self.kd_weight * self.beta * inter,
            "intra": self.kd_weight * self.gamma * intra,
        }
