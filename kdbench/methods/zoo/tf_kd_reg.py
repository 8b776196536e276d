"""TF-KD reg: KD from a teacher that is only a rule: almost sure of the label, and equal on all other classes.

L = (1 - alpha) * CE(y, softmax(z)) + alpha * multiplier * mean_{B,K} p_c log( p_c / q_c ),
p = softmax(u / T),   u = 0.99 at the label and 0.01 / (K - 1) elsewhere,   q = softmax(z),

no T on the student and no T^2. The mean runs over classes, too, which makes the term K times weaker than KD's. u is a
probability that goes through a softmax again, as in the authors' code: p is close to uniform at any T above 1.
Yuan, Tay, Li, Wang and Feng, "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020,
https://arxiv.org/abs/1909.11723.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.nkd import label_mask


def virtual_teacher(z: Tensor, y: Tensor, correct: float, temperature: float) -> Tensor:
    """Log-probabilities [N,K] of the teacher by rule, ``correct`` being its u at the label, for logits like ``z``."""
    # In the logits' precision from the start: torch.where would make a float32 of two numbers.
    u = torch.full_like(z, (1 - correct) / max(z.shape[1] - 1, 1)).masked_fill(label_mask(z, y), correct)
    return F.log_softmax(u / temperature, dim=1)


class TFKDReg(Method):
    alpha: float
    multiplier: float
    correct: float
    temperature: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        log_p = virtual_teacher(z, step.y, self.correct, self.temperature)
        divergence = F.kl_div(F.log_softmax(z, dim=1), log_p, reduction="batchmean", log_target=True) / z.shape[1]
        return {
            "ce": (1 - self.alpha) * step.cross_entropy(z),
            "virtual": self.alpha * self.multiplier * divergence,
        }
