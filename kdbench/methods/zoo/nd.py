"""KD++: KD, and features that point to their class's centre in the teacher's space and are as long as the teacher's.

L = ce_weight * CE(y, softmax(z)) + w(epoch) kd_weight * T^2 KL(p_T || q_T)
    + nd_weight * mean_B [ 1 - < s, c_y / ||c_y|| > / max(||s||, ||t||) ],   w = min(epoch / warm_up, 1),

with s and t the pooled features and c_k the mean of the teacher's over the training images of class k. Where the
students' are of another width, s is led to the teacher's by batch norm, dropout of one half and a linear layer, for
this loss alone. The centres are those of the images as they are; the authors took theirs from augmented images and
rounded to four decimals, and their w counts epochs from 0.
Wang, Cheng, Duan, Wang, Feng and Kong, "Improving Knowledge Distillation via Regularizing Feature Direction and Norm",
ECCV 2024, https://arxiv.org/abs/2305.17007.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, Sweep, full
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs


def norm_and_direction(s: Tensor, t: Tensor, centres: Tensor) -> Tensor:
    """ND of features ``s`` and ``t`` [N,D] with the centres [N,D] of their classes."""
    along = (s * F.normalize(centres)).sum(dim=1)
    own, taught = vector_norm(s, dim=1), vector_norm(t, dim=1)
    # Not torch.maximum: where both are as long it gives the student one half of the gradient, the authors' code all.
    longer = torch.where(own >= taught, own, taught)
    return (1 - along / torch.where(longer > 0, longer, 1)).mean()


def _pooled(outputs: Outputs) -> Tensor:
    assert outputs.pooled is not None, "the card's needs list pooled"
    return full(outputs.pooled)


class ND(Method):
    ce_weight: float
    kd_weight: float
    nd_weight: float
    temperature: float
    warm_up: float
    centres: Tensor

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.embed: nn.Module = nn.Identity()
        if student.pooled != teacher.pooled:
            linear = nn.Linear(student.pooled, teacher.pooled)
            nn.init.zeros_(linear.bias)
            self.embed = nn.Sequential(nn.BatchNorm1d(student.pooled), nn.Dropout(0.5), linear)
        self.register_buffer("centres", torch.zeros(data.classes, teacher.pooled))

    def prepare(self, sweep: Sweep) -> None:
        sums = torch.zeros_like(self.centres, dtype=torch.float64)
        counts = torch.zeros_like(sums[:, 0])
        for outputs, y, _ in sweep():
            sums.index_add_(0, y, _pooled(outputs).detach().double())
            counts += torch.bincount(y, minlength=len(counts))
        self.centres.copy_(sums / counts.clamp_min(1)[:, None])

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        nd = norm_and_direction(self.embed(_pooled(step.student)), _pooled(step.taught).detach(), self.centres[step.y])
        kd_weight = step.warm_up(self.warm_up) * self.kd_weight
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "kd": kd_weight * kd_loss(z, step.taught.logits, self.temperature),
            "nd": self.nd_weight * nd,
        }
