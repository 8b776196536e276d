"""WKD-F: the Wasserstein distance of Gaussians that describe each channel of the last map.

L = ce_weight * CE(y, softmax(z)) + w(epoch) weight * mean_B mean_cells sum_C [ ratio ( mu_s - mu_t )^2
    + ( s_s - s_t )^2 ],   s = sqrt(variance + 1e-5),

with mu and the unbiased variance those of each channel over the positions of a cell, grid x grid cells to a map, of
g(F_s) and F_t, where g is a projector with batch norm and ReLU to the teacher's shape: ``conv`` is one convolution,
``bottleneck`` goes through 256 channels, 1x1, 3x3 (or what fits the sizes), 1x1. w is 1 up to epoch ``decay_start`` and
falls to 0 with a half cosine from there; kdbench lets it fall with every batch. The distance is a sum over channels, so
its weight goes with the teacher's width.
Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS 2024,
https://arxiv.org/abs/2412.08139.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.fitnet import regressor
from kdbench.models.outputs import DataSpec, NetworkSpec, Shape

_EPSILON = 1e-5  # under the root: WKD 214cf88
_MIDDLE = 256  # the bottleneck's width: WKD 214cf88


def windows(size: int, grid: int) -> list[slice]:
    """``grid`` windows over ``size`` positions, cut as adaptive pooling cuts them."""
    return [slice(size * i // grid, -(size * (i + 1) // -grid)) for i in range(grid)]


def moments(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation, both [N,C,grid^2], of maps [N,C,H,W] over each cell."""
    rows, columns = windows(maps.shape[2], grid), windows(maps.shape[3], grid)
    pairs = [torch.var_mean(maps[:, :, row, column], dim=(2, 3)) for row in rows for column in columns]
    variance, mean = (torch.stack(parts, dim=2) for parts in zip(*pairs, strict=True))
    return mean, (variance + _EPSILON).sqrt()


def gaussian_distance(student: Tensor, teacher: Tensor, ratio: float, grid: int) -> Tensor:
    """Weighted squared Wasserstein distance of maps [N,C,H,W] of one shape, their channels taken as independent."""
    (mean_s, deviation_s), (mean_t, deviation_t) = moments(student, grid), moments(teacher, grid)
    distance = ratio * (mean_s - mean_t).square() + (deviation_s - deviation_t).square()
    return distance.sum(dim=1).mean()


def projector(student: Shape, teacher: Shape, bottleneck: bool) -> nn.Sequential:
    """From maps of shape ``student`` to ``teacher``, with batch norm and ReLU; UserError where no convolution fits."""
    try:
        if not bottleneck:
            return regressor(student, teacher)
        resize = regressor((_MIDDLE, *student[1:]), (_MIDDLE, *teacher[1:]))[0]
    except UserError:
        raise UserError(
            f"wkd_f: no projector leads from the student's {student[1]}x{student[2]} map to the teacher's "
            f"{teacher[1]}x{teacher[2]}; choose another pair."
        ) from None
    if student[1:] == teacher[1:]:
        resize = nn.Conv2d(_MIDDLE, _MIDDLE, 3, padding=1)
    ends = nn.Conv2d(student[0], _MIDDLE, 1), nn.Conv2d(_MIDDLE, teacher[0], 1)
    return nn.Sequential(ends[0], resize, ends[1], nn.BatchNorm2d(teacher[0]), nn.ReLU())


class WKDF(Method):
    ce_weight: float
    weight: float
    ratio: float
    grid: int
    projector: str
    decay_start: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        shape = teacher.stages[-1]
        smallest = math.prod(min(len(range(size)[window]) for window in windows(size, self.grid)) for size in shape[1:])
        if smallest < 2:
            raise UserError(
                f"wkd_f: a grid of {self.grid} leaves cells of one position on {teacher.name}'s {shape[1]}x{shape[2]} "
                "map, which have no variance; choose a smaller grid."
            )
        self.project = projector(student.stages[-1], shape, self.projector == "bottleneck")

    def _decay(self, step: Step) -> float:
        start = self.decay_start / 240
        return 1.0 if step.progress <= start else (1 + math.cos(math.pi * (step.progress - start) / (1 - start))) / 2

    def loss(self, step: Step) -> dict[str, Tensor]:
        projected = self.project(full(step.student.stages[-1]))
        target = full(step.taught.stages[-1]).detach()
        distance = gaussian_distance(projected, target, self.ratio, self.grid)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "wasserstein": self._decay(step) * self.weight * distance,
        }
