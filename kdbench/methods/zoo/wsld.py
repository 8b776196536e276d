"""WSLD: distil a sample the harder, the worse the student fits its label compared with the teacher.

L = ce_weight * CE(y, softmax(z)) + kd_weight * T^2 * mean_B [ w * CE(softmax(v / T), softmax(z / T)) ],
w = 1 - exp( -CE(y, softmax(z)) / CE(y, softmax(v)) ),

without a gradient through w: where the student already fits the label better than the teacher, soft labels mostly add
variance.
Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
Tradeoff Perspective", ICLR 2021, https://arxiv.org/abs/2102.00650.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full

_EPS = 1e-7  # of the published implementation: a teacher that is certain and right has cross-entropy 0


@torch.no_grad()
def sample_weights(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """w in [0,1] of each sample, [N], of logits [N,K] and labels [N]."""
    student, teacher = (F.cross_entropy(full(logits), y, reduction="none") for logits in (z, v))
    return -torch.expm1(-student / (teacher + _EPS))


def weighted_soft_label_loss(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> Tensor:
    """T^2 mean_B w CE(softmax(v/T), softmax(z/T)) of logits [N,K] and labels [N]; no gradient to ``v``."""
    p = F.softmax(full(v).detach() / temperature, dim=1)
    soft = -(p * F.log_softmax(full(z) / temperature, dim=1)).sum(dim=1)
    return temperature**2 * (sample_weights(z, v, y) * soft).mean()


class WSLD(Method):
    ce_weight: float
    kd_weight: float
    temperature: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        soft = weighted_soft_label_loss(z, step.taught.logits, step.y, self.temperature)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "soft": self.kd_weight * soft,
        }
