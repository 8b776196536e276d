"""SDD: a logit loss on every cell of a pyramid over the map that is pooled, instead of on the image as a whole.

L = ce_weight * CE(y, softmax(z)) + w(epoch) / (B N) * sum_b sum_n omega_bn l( z_bn, v_bn, y_b ),

with z_n and v_n what each network's classifier makes of cell n: the map it pools, averaged to 4 x 4 cells, these to
2 x 2 and to 1, as many of the three as ``scales`` says. omega is 2 where the teacher is right about the cell but wrong
about the whole (the 1 x 1 cell) or the reverse, else 1. The three cards differ in l:
``sdd_kd``   l = T^2 KL(p_T || q_T), w = weight,
``sdd_dkd``  l = T^2 [ alpha TCKD + beta NCKD ] as in DKD, w = min(epoch / warm_up, 1),
``sdd_nkd``  l = - p_y log q_y - gamma T^2 sum_c p_T log q_T, the same w; the sum is over all classes: NKD's leaves the
target class out, the mask of the authors' repository leaves it in.
Wei, Luo and Luo, "Scaled Decoupled Distillation", CVPR 2024, https://arxiv.org/abs/2403.13512.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.at import shrink
from kdbench.methods.base import Method, Step, full
from kdbench.methods.dkd import decoupled_kl
from kdbench.methods.heads import check_pooled_map, on_map, pooled_map, teacher_head
from kdbench.models.outputs import DataSpec, NetworkSpec


def cell_logits(head: nn.Module, maps: Tensor, scales: int) -> Tensor:
    """Logits [N,M,K] of the first ``scales`` levels of the pyramid 1, 2 x 2, 4 x 4 over maps [N,C,H,W], row by row."""
    finest = shrink(maps, (4, 4))
    levels = [shrink(finest, (side, side)) for side in (1, 2, 4)[:scales]]
    return torch.cat([on_map(head, level).flatten(2) for level in levels], dim=2).mT


def consistency(v: Tensor, y: Tensor) -> Tensor:
    """omega [N,M]: 2 where cell logits [N,M,K] are right and those of the first cell are wrong, or the reverse."""
    right = v.argmax(dim=2) == y[:, None]
    return 1.0 + (right != right[:, :1])


class ScaleDecoupled(Method):
    """What the three have in common; each says what a cell's loss is."""

    ce_weight: float
    scales: str
    temperature: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        for network in (student, teacher):
            check_pooled_map(self.spec.name, network)
        self.heads = (student.head,)  # in a tuple: its parameters are the student's, not this method's

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        """Loss [R] of logits [R,K] and labels [R]; ``v`` needs no gradient."""
        raise TypeError(f"{type(self).__name__} does not define cell_loss")

    def scale(self, step: Step) -> float:
        """w(epoch)."""
        raise TypeError(f"{type(self).__name__} does not define scale")

    def loss(self, step: Step) -> dict[str, Tensor]:
        levels = len(self.scales.split(","))
        with torch.no_grad():
            v = cell_logits(teacher_head(step), pooled_map(step.taught), levels)
            omega = consistency(v, step.y).flatten()
        z = cell_logits(self.heads[0], pooled_map(step.student), levels)
        losses = self.cell_loss(z.flatten(0, 1), v.flatten(0, 1), step.y.repeat_interleave(v.shape[1]))
        return {
            "ce": self.ce_weight * F.cross_entropy(full(step.student.logits), step.y),
            "cells": self.scale(step) * (omega * losses).mean(),
        }


class SDDKD(ScaleDecoupled):
    weight: float

    def scale(self, step: Step) -> float:
        return self.weight

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        log_q, log_p = (F.log_softmax(logits / self.temperature, dim=1) for logits in (z, v))
        return self.temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


class SDDDKD(ScaleDecoupled):
    alpha: float
    beta: float
    warm_up: float

    def scale(self, step: Step) -> float:
        return step.warm_up(self.warm_up)

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        tckd, nckd = decoupled_kl(z, v, y, self.temperature)
        return self.temperature**2 * (self.alpha * tckd + self.beta * nckd)


class SDDNKD(ScaleDecoupled):
    gamma: float
    warm_up: float

    def scale(self, step: Step) -> float:
        return step.warm_up(self.warm_up)

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        target = F.softmax(v, dim=1).gather(1, y[:, None])[:, 0] * F.cross_entropy(z, y, reduction="none")
        soft = F.cross_entropy(z / self.temperature, F.softmax(v / self.temperature, dim=1), reduction="none")
        return target + self.gamma * self.temperature**2 * soft
