"""TF-KD self: KD from a trained copy of the student's own architecture.

L = (1 - alpha) * CE(y, softmax(z)) + alpha * multiplier * T^2 * mean_{B,K} p_c log( p_c / q_c ),

with p = softmax(v / T) and q = softmax(z / T). The mean runs over classes, too, which makes the term K times weaker
than KD's; the multiplier makes up for it. The formula asks nothing of the teacher: the paper's setting is a pair of
twice the same architecture.
Yuan, Tay, Li, Wang and Feng, "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020,
https://arxiv.org/abs/1909.11723.
"""

from __future__ import annotations

from torch import Tensor

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.kd import kd_loss


class TFKDSelf(Method):
    alpha: float
    multiplier: float
    temperature: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        kd = kd_loss(z, step.taught.logits, self.temperature) / z.shape[1]
        return {
            "ce": (1 - self.alpha) * step.cross_entropy(z),
            "kd": self.alpha * self.multiplier * kd,
        }
