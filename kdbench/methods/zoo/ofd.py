"""OFD: match the maps before the ReLU, but only where what the teacher says survives its ReLU.

L = ce_weight * CE(y, softmax(z)) + weight * sum_l 2^(l - L) mean_B || c_l(F_s^l) - T^l ||^2_partial,
T = max(F_t, m),

with F the maps before the last ReLU of stages l = 1..L, c a 1x1 convolution and batch norm, and the squared norm taken
over channels and positions where F_t > 0 or c(F_s) > T: a student that is already below a negative target is left
alone. The margin m < 0 of a channel is the mean of its negative values, E[x | x < 0], for x normal with the mean and
deviation that the teacher's batch norm gives it; -3 deviations where one value in 1000 or fewer is negative. The
teacher stays in eval mode; the authors' scripts and mdistiller leave its batch norms in training mode. Networks with
unequally many stages are paired from the last one, and larger teacher maps averaged down.
Heo, Kim, Yun, Park, Kwak and Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
https://arxiv.org/abs/1904.01866.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.methods.stages import shrink
from kdbench.models.network import Network
from kdbench.models.outputs import DataSpec, NetworkSpec

_RARE = 1e-3  # share of negative values at which the margin becomes -3 deviations: the authors' repository


def margins(norm: nn.Module) -> Tensor:
    """E[x | x < 0] of each channel of the batch norm ``norm``, [C] in float64; no gradient."""
    deviation = cast(Tensor, norm.weight).detach().double().abs().clamp_min(torch.finfo(torch.float32).tiny)
    mean = cast(Tensor, norm.bias).detach().double()
    score = mean / deviation
    negative = torch.special.log_ndtr(-score)
    hazard = (-score.square() / 2 - math.log(2 * math.pi) / 2 - negative).exp()
    return torch.where(negative > math.log(_RARE), mean - deviation * hazard, -3 * deviation)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial squared distance of maps [N,C,H,W] with margins [C]: summed over all but the batch, averaged over it."""
    target = torch.maximum(teacher, margin[:, None, None])
    counted = (teacher > 0) | (student > target)
    return ((student - target).square() * counted).sum() / len(student)


def _connector(channels: int, target: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, target, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(target))


class OFD(Method):
    ce_weight: float
    weight: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        norms = cast(Network, teacher.module).stage_norms
        if len(norms) != len(teacher.preacts) or not norms:
            raise UserError(
                f"ofd: the stages of {teacher.name} do not each end in one batch norm, from which the margins are "
                "taken; choose another teacher."
            )
        self.levels = min(len(student.preacts), len(teacher.preacts))
        pairs = zip(student.preacts[-self.levels :], teacher.preacts[-self.levels :], strict=True)
        self.connectors = nn.ModuleList(_connector(s[0], t[0]) for s, t in pairs)
        for level, norm in enumerate(norms[-self.levels :]):
            self.register_buffer(f"margin{level}", margins(norm).float())

    def loss(self, step: Step) -> dict[str, Tensor]:
        distances = []
        maps = zip(step.student.preacts[-self.levels :], step.taught.preacts[-self.levels :], strict=True)
        for level, (connector, (s, t)) in enumerate(zip(self.connectors, maps, strict=True)):
            connected = connector(full(s))
            target = shrink(full(t).detach(), (s.shape[2], s.shape[3]))
            distance = partial_distance(connected, target, self.get_buffer(f"margin{level}"))
            distances.append(distance / 2 ** (self.levels - 1 - level))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "feature": self.weight * torch.stack(distances).sum(),
        }
