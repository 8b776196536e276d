"""SDD-DKD: the scaled decoupled loss (kdbench.methods.cells) with DKD's two parts in every cell.

L = ce_weight * CE(y, softmax(z)) + w(epoch) * mean over images and cells of omega l,

l = T^2 [ alpha TCKD + beta NCKD ] as in DKD, w = min(epoch / warm_up, 1).
Wei, Luo and Luo, "Scaled Decoupled Distillation", CVPR 2024, https://arxiv.org/abs/2403.13512.
"""

from __future__ import annotations

from torch import Tensor

from kdbench.methods.base import Step
from kdbench.methods.cells import ScaleDecoupled
from kdbench.methods.zoo.dkd import decoupled_kl


class SDDDKD(ScaleDecoupled):
    alpha: float
    beta: float
    warm_up: float

    def scale(self, step: Step) -> float:
        return step.warm_up(self.warm_up)

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        tckd, nckd = decoupled_kl(z, v, y, self.temperature)
        return self.temperature**2 * (self.alpha * tckd + self.beta * nckd)
