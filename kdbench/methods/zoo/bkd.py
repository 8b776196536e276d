"""BKD: every class is a yes-or-no question of its own, and the teacher's probability is the soft answer.

L = ce_weight * CE(y, softmax(z)) + kd_weight * mean_{B,K} BCE( softmax(v), sigmoid(z) ),

the binary baseline in the code of
Hao, Guo, Han, Tang, Hu, Wang and Xu, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation", NeurIPS 2023, https://arxiv.org/abs/2310.19444.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


class BKD(Method):
    ce_weight: float
    kd_weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        p = F.softmax(full(step.taught.logits).detach(), dim=1)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "binary": self.kd_weight * F.binary_cross_entropy_with_logits(z, p),
        }
