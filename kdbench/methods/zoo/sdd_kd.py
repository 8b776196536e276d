"""SDD-KD: the scaled decoupled loss (kdbench.methods.cells) with Hinton's KL in every cell.

L = ce_weight * CE(y, softmax(z)) + w(epoch) * mean over images and cells of omega l,

l = T^2 KL(p_T || q_T), w = weight.
Wei, Luo and Luo, "Scaled Decoupled Distillation", CVPR 2024, https://arxiv.org/abs/2403.13512.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Step
from kdbench.methods.cells import ScaleDecoupled


class SDDKD(ScaleDecoupled):
    weight: float

    def scale(self, step: Step) -> float:
        return self.weight

    def cell_loss(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        log_q, log_p = (F.log_softmax(logits / self.temperature, dim=1) for logits in (z, v))
        return self.temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
