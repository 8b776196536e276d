"""SDD-NKD: the scaled decoupled loss (kdbench.methods.cells) with NKD's two parts in every cell.

L = ce_weight * CE(y, softmax(z)) + w(epoch) * mean over images and cells of omega l,

l = - p_y log q_y - gamma T^2 sum_c p_T log q_T, w = min(epoch / warm_up, 1); the sum is over all classes: NKD's leaves
the target class out, the mask of the authors' repository leaves it in.
Wei, Luo and Luo, "Scaled Decoupled Distillation", CVPR 2024, https://arxiv.org/abs/2403.13512.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Step
from kdbench.methods.cells import ScaleDecoupled


class SDDNKD(ScaleDecoupled):
    gamma: float
    warm_up: float

    def scale(self, step: Step) -> float:
        return step.warm_up(self.warm_up)

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        target = F.softmax(v, dim=1).gather(1, y[:, None])[:, 0] * F.cross_entropy(z, y, reduction="none")
        soft = F.cross_entropy(z / self.temperature, F.softmax(v / self.temperature, dim=1), reduction="none")
        return target + self.gamma * self.temperature**2 * soft
