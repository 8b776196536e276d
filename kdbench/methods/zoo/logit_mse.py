"""Logit matching: the student regresses the teacher's logits.

L = ce_weight * CE(y, softmax(z)) + weight * mean_{B,K} (z - v)^2,

the limit that KD reaches at a high temperature, where both networks' logits have mean zero. The paper trains on the
second term alone (ce_weight 0).
Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, https://arxiv.org/abs/1312.6184.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


class LogitMSE(Method):
    ce_weight: float
    weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "mse": self.weight * F.mse_loss(z, full(step.taught.logits).detach()),
        }
