"""ReviewKD: every stage of the student, fused with what the deeper ones saw, reviews the teacher's stage.

L = ce_weight * CE(y, softmax(z)) + w(epoch) weight * sum_l HCL( o_l, F_t^l ),   w = min(epoch / warm_up, 1),
HCL(a, b) = sum_k 2^-k mean ( p_k(a) - p_k(b) )^2 / sum_k 2^-k,

over the stages and, as the last level, the pooled features. From the deepest level up, o_l and the residual r_l come
from attention based fusion: 1x1 convolution and batch norm of the student's map, added to the upsampled residual of the
level below with two sigmoid weights for every position; o_l is a 3x3 convolution and batch norm of it at the size of
F_t^l, the teacher's map before its ReLU. p_0 keeps a map, p_1, p_2, p_3 pool it to 4, 2 and 1 cells a side, as far as
these are fewer than it has.
Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, https://arxiv.org/abs/2104.09044.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.stages import check_paired, shrink
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs, Shape

_WIDEST = 512  # channels of the residual, at most: mdistiller a08d46f and the authors' repository


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """HCL of maps [N,C,H,W] of one shape."""
    loss, weights, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side < student.shape[2]:
            weight /= 2
            size = (side, side)
            loss = loss + weight * F.mse_loss(shrink(student, size), shrink(teacher, size))
            weights += weight
    return loss / weights


class Fusion(nn.Module):
    """Attention based fusion: a map [N,channels,...] and the residual from below to (output, residual).

    ``target``: the teacher's shape (C, H, W), which the output takes.
    """

    def __init__(self, channels: int, middle: int, target: Shape, deepest: bool) -> None:
        super().__init__()
        self.size = target[1:]
        narrow, widen = nn.Conv2d(channels, middle, 1, bias=False), nn.Conv2d(middle, target[0], 3, 1, 1, bias=False)
        for conv in (narrow, widen):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.narrow = nn.Sequential(narrow, nn.BatchNorm2d(middle))
        self.widen = nn.Sequential(widen, nn.BatchNorm2d(target[0]))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.narrow(x)
        if self.attention is not None and residual is not None:
            residual = F.interpolate(residual, x.shape[2:])
            gates = self.attention(torch.cat([x, residual], dim=1)).sigmoid()
            x = x * gates[:, :1] + residual * gates[:, 1:]
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size)
        return self.widen(x), x


def _pixel(outputs: Outputs) -> Tensor:
    assert outputs.pooled is not None, "the card's needs list pooled"
    return full(outputs.pooled)[:, :, None, None]


class ReviewKD(Method):
    ce_weight: float
    weight: float
    warm_up: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_paired("reviewkd", student, teacher)
        channels = [*(stage[0] for stage in student.stages), student.pooled]
        targets = [*teacher.preacts, (teacher.pooled, 1, 1)]
        middle = min(_WIDEST, student.pooled)
        levels = reversed(list(zip(channels, targets, strict=True)))
        self.fusions = nn.ModuleList(Fusion(c, middle, target, i == 0) for i, (c, target) in enumerate(levels))

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught = step.taught.detach()
        maps = [*map(full, step.student.stages), _pixel(step.student)]
        targets = [*map(full, taught.preacts), _pixel(taught)]
        losses, residual = [], None
        for fusion, x, target in zip(self.fusions, reversed(maps), reversed(targets), strict=True):
            output, residual = fusion(x, residual)
            losses.append(context_loss(output, target))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "review": step.warm_up(self.warm_up) * self.weight * torch.stack(losses).sum(),
        }
