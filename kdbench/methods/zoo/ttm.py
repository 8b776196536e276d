"""TTM: the temperature is put on the teacher alone, as a power transform of its probabilities.

L = ce_weight * CE(y, q) + beta * mean_B KL(p_gamma || q),   p_gamma = p^gamma / sum_j p_j^gamma = softmax(gamma v),

with p = softmax(v), q = softmax(z) and gamma = 1 / T; there is no T on the student and no factor T^2. It equals KD plus
a Renyi entropy regulariser: KL(p_T || q) = T KL(p_T || q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_T).
Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, https://arxiv.org/abs/2402.11148.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def ttm_loss(z: Tensor, v: Tensor, gamma: float) -> Tensor:
    """mean_B KL(softmax(gamma v) || softmax(z)) of logits [N,K], summed over classes; no gradient to ``v``."""
    with torch.no_grad():
        log_p = F.log_softmax(gamma * full(v), dim=1)
    return F.kl_div(F.log_softmax(full(z), dim=1), log_p, reduction="batchmean", log_target=True)


class TTM(Method):
    ce_weight: float
    beta: float
    gamma: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "ttm": self.beta * ttm_loss(z, step.taught.logits, self.gamma),
        }
