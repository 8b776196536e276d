"""VID: the student's maps shall tell as much as possible of the teacher's: a variational bound of their information.

L = ce_weight * CE(y, softmax(z)) + weight * sum_l mean 1/2 [ (mu_l(F_s^l) - F_t^l)^2 / s_l^2 + log s_l^2 ],

the negative log-likelihood of the teacher's maps, without its constant, under a Gaussian with the mean a network mu of
1x1 convolutions makes of the student's map and a variance s^2 = softplus(a) + 1e-5 for each channel; both are trained.
The mean runs over samples, channels and positions; of two sizes the larger map is averaged to the smaller.
Ahn, Hu, Damianou, Lawrence and Dai, "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
https://arxiv.org/abs/1904.05835.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step
from kdbench.methods.stages import check_paired, match_size
from kdbench.models.outputs import DataSpec, NetworkSpec

_SMALLEST = 1e-5  # variance


class Likelihood(nn.Module):
    """Gaussian model of a teacher's map with ``teacher`` channels given a student's map with ``student`` channels."""

    def __init__(self, student: int, teacher: int, variance: float) -> None:
        super().__init__()
        widths = (student, teacher, teacher, teacher)
        convolutions = [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
        self.mean = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        self.scale = nn.Parameter(torch.full((teacher,), math.log(math.expm1(variance - _SMALLEST))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean negative log-likelihood of maps [N,C_t,H,W] given [N,C_s,H,W]; no gradient to ``teacher``."""
        student, teacher = match_size(student, teacher.detach())
        variance = (F.softplus(self.scale) + _SMALLEST)[:, None, None]
        return 0.5 * ((self.mean(student) - teacher).square() / variance + variance.log()).mean()


class VID(Method):
    ce_weight: float
    weight: float
    variance: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_paired("vid", student, teacher)
        self.likelihoods = nn.ModuleList(
            Likelihood(s[0], t[0], self.variance) for s, t in zip(student.stages, teacher.stages, strict=True)
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        stages = zip(self.likelihoods, step.student.stages, step.taught.stages, strict=True)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "information": self.weight * torch.stack([model(s, t) for model, s, t in stages]).sum(),
        }
