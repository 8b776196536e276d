"""DKD: KD split into what the teacher says of the target class and of the others, weighed apart.

L = ce_weight * CE(y, softmax(z)) + w(epoch) T^2 [ alpha TCKD + beta NCKD ],   w = min(epoch / warm_up, 1),
TCKD = mean_B KL( (p_y, 1 - p_y) || (q_y, 1 - q_y) ),   NCKD = mean_B KL( p_others || q_others ),

with p = softmax(v / T), q = softmax(z / T) and ``others`` the softmax over the classes that are not the target. Plain
KD is T^2 mean_B [ TCKD + (1 - p_y) NCKD ].
Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022, https://arxiv.org/abs/2203.08679.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def decouple(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_y, 1 - p_y) [N,2] and the others' log-softmax [N,K], 0 at the target, of logits [N,K].

    p_y is the sigmoid of the target's margin over the others' log-sum-exp: no log of a probability that rounds to 0.
    """
    target = torch.arange(logits.shape[1], device=y.device) == y[:, None]
    others = logits.masked_fill(target, -torch.inf)
    margin = logits.gather(1, y[:, None]) - others.logsumexp(dim=1, keepdim=True)
    log_others = F.log_softmax(others, dim=1).masked_fill(target, 0.0)
    return F.logsigmoid(torch.cat([margin, -margin], dim=1)), log_others


def decoupled_kl(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each sample, both [N] and without T^2, of logits [N,K] and labels [N]; no gradient to ``v``."""
    with torch.no_grad():
        log_p, log_p_others = decouple(full(v) / temperature, y)
    log_q, log_q_others = decouple(full(z) / temperature, y)
    tckd = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    nckd = F.kl_div(log_q_others, log_p_others, reduction="none", log_target=True).sum(dim=1)
    return tckd, nckd


class DKD(Method):
    ce_weight: float
    alpha: float
    beta: float
    temperature: float
    warm_up: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        tckd, nckd = decoupled_kl(z, step.taught.logits, step.y, self.temperature)
        scale = step.warm_up(self.warm_up) * self.temperature**2
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "tckd": scale * self.alpha * tckd.mean(),
            "nckd": scale * self.beta * nckd.mean(),
        }
