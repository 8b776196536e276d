"""KD: match the teacher's temperature-softened class probabilities.

L = ce_weight * CE(y, softmax(z)) + kd_weight * T^2 * mean_B KL(softmax(v / T) || softmax(z / T)),

with student logits z, teacher logits v and temperature T; T^2 keeps the gradient's size when T changes.
Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def kd_loss(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """T^2 mean_B KL(softmax(v/T) || softmax(z/T)) of logits [N,K], summed over classes; no gradient to ``v``."""
    with torch.no_grad():
        log_p = F.log_softmax(full(v) / temperature, dim=1)
    log_q = F.log_softmax(full(z) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class KD(Method):
    ce_weight: float
    kd_weight: float
    temperature: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "kd": self.kd_weight * kd_loss(z, step.taught.logits, self.temperature),
        }
