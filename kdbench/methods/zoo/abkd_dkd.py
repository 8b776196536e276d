"""ABKD on DKD: what the teacher says of the classes that are not the target is compared by an alpha-beta divergence.

L = ce_weight * CE(y, softmax(z)) + w(epoch) T^2 [ tckd_weight TCKD + nckd_weight mean_B D( p_others, q_others ) ],

with DKD's w, TCKD and ``others`` (dkd.py) and ABKD's D (abkd.py), here with T^2. At alpha 1, beta 0 it is DKD, whose
alpha and beta are tckd_weight and nckd_weight.
Wang, Yang, Wang, Wang, Xu and Huang, "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
Distillation via α-β-Divergence", ICML 2025, https://arxiv.org/abs/2505.04560; its form is that of the authors' code,
ghwang-s/abkd@df81318, standard_classification/distiller_zoo/dkd.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.abkd import divergence
from kdbench.methods.zoo.dkd import decouple


class ABKDDKD(Method):
    ce_weight: float
    tckd_weight: float
    nckd_weight: float
    alpha: float
    beta: float
    temperature: float
    warm_up: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        with torch.no_grad():
            log_p, log_p_others = decouple(full(step.taught.logits) / self.temperature, step.y)
        log_q, log_q_others = decouple(z / self.temperature, step.y)
        # The label's entry is log 1 on both sides of the others, of which D makes 0.
        others = divergence(log_p_others, log_q_others, self.alpha, self.beta)
        scale = step.warm_up(self.warm_up) * self.temperature**2
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "tckd": scale * self.tckd_weight * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True),
            "nckd": scale * self.nckd_weight * others.mean(),
        }
