"""CTKD: KD at a temperature that is learnt against the student, from easy to hard.

L = ce_weight * CE(y, softmax(z)) + kd_weight * T^2 * mean_B KL( softmax(v / T) || softmax(z / T) ),
T = start + span * sigmoid(theta),   theta = 1 at first,

theta is one parameter that trains in the student's optimiser, with its gradient times
-reversal * (1 - cos(pi * min(epoch / curriculum, 1))) / 2: not at all at first, and in the end up the loss that the
student goes down. T starts at 15.6 with the published start 1 and span 20.
Li, Li, Yang, Zhao, Song, Luo, Li and Yang, "Curriculum Temperature for Knowledge Distillation", AAAI 2023,
https://arxiv.org/abs/2211.16231.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, its gradient multiplied by ``factor``."""
    return torch.lerp(x.detach(), x, factor)


class CTKD(Method):
    ce_weight: float
    kd_weight: float
    start: float
    span: float
    reversal: float
    curriculum: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        self.theta = nn.Parameter(torch.ones(()))

    def temperature(self, step: Step) -> Tensor:
        """T of this step, a scalar whose gradient reaches theta reversed."""
        reversal = self.reversal * (1 - math.cos(math.pi * step.warm_up(self.curriculum))) / 2
        return self.start + self.span * scaled_gradient(self.theta, -reversal).sigmoid()

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, t = full(step.student.logits), self.temperature(step)
        log_p = F.log_softmax(full(step.taught.logits).detach() / t, dim=1)
        kd = t**2 * F.kl_div(F.log_softmax(z / t, dim=1), log_p, reduction="batchmean", log_target=True)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "kd": self.kd_weight * kd,
        }
