"""WTTM: transformed teacher matching in which samples that the teacher finds hard weigh more.

L = ce_weight * CE(y, q) + beta * mean_B [ U_gamma(p) KL(p_gamma || q) ],   U_gamma(p) = sum_j p_j^gamma,

with p = softmax(v), q = softmax(z) and p_gamma = p^gamma / U_gamma(p); U is 1 for a one-hot teacher and K^(1 - gamma)
for a uniform one. Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024,
https://arxiv.org/abs/2402.11148, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def power_sum(v: Tensor, gamma: float) -> Tensor:
    """U_gamma(softmax(v)) [N] of teacher logits [N,K].

    It is computed from log-probabilities: for gamma = 0.1 a probability that underflows still counts, 1e-10 as 0.1.
    """
    return (gamma * F.log_softmax(full(v), dim=1)).logsumexp(dim=1).exp()


def wttm_loss(z: Tensor, v: Tensor, gamma: float) -> Tensor:
    """mean_B U_gamma(p) KL(p_gamma || q) of logits [N,K], summed over classes; no gradient to ``v``.

    U times p_gamma is p^gamma, which is why the weight never appears as a factor.
    """
    with torch.no_grad():
        log_power = gamma * F.log_softmax(full(v), dim=1)
        log_p = F.log_softmax(log_power, dim=1)
        power = log_power.exp()
    return (power * (log_p - F.log_softmax(full(z), dim=1))).sum() / len(z)


class WTTM(Method):
    ce_weight: float
    beta: float
    gamma: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "wttm": self.beta * wttm_loss(z, step.taught.logits, self.gamma),
        }
