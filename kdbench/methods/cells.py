"""What the three methods of SDD share: a logit loss on every cell of a pyramid over the map that is pooled.

L = ce_weight * CE(y, softmax(z)) + w(epoch) / (B N) * sum_b sum_n omega_bn l( z_bn, v_bn, y_b ),

with z_n and v_n what each network's classifier makes of cell n: the map it pools, averaged to 4 x 4 cells, these to
2 x 2 and to 1, as many of the three as ``scales`` says. omega is 2 where the teacher is right about the cell but wrong
about the whole (the 1 x 1 cell) or the reverse, else 1. ``sdd_kd``, ``sdd_dkd`` and ``sdd_nkd`` say what l and w are.
Wei, Luo and Luo, "Scaled Decoupled Distillation", CVPR 2024, https://arxiv.org/abs/2403.13512.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.methods.base import Method, Step
from kdbench.methods.heads import check_pooled_map, on_map, pooled_map, teacher_head
from kdbench.methods.stages import shrink
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
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "cells": self.scale(step) * (omega * losses).mean(),
        }
