"""RLD: KD from which what the teacher says wrongly is left out.

L = ce_weight * CE(y, softmax(z)) + w(epoch) [ alpha * S^2 * SCD + beta * T^2 * MCD ],   w = min(epoch / warm_up, 1),
SCD = mean_B KL( (p_max, 1 - p_max) || (q_y, 1 - q_y) ),   MCD = mean_B KL( p_below || q_below ),

with p and q the softmax of v and z at temperature S: the student takes over how sure the teacher is, but of the label.
``below`` is the softmax at temperature T over the classes that the teacher ranks below the label: no class that it
prefers to the label, nor the label itself, takes part.
Sun, Chen, Lyu, Chen, Chen and Wang, "Knowledge Distillation with Refined Logits", ICCV 2025,
https://arxiv.org/abs/2408.07703.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.nkd import label_mask


def log_confidence(logits: Tensor, chosen: Tensor) -> Tensor:
    """log (p_c, 1 - p_c) [N,2] of class ``chosen`` [N] under softmax(logits [N,K]).

    p_c is the sigmoid of the class's margin over the others' log-sum-exp: no log of a probability that rounds to 0.
    """
    others = logits.masked_fill(label_mask(logits, chosen), -torch.inf).logsumexp(dim=1)
    margin = logits.gather(1, chosen[:, None])[:, 0] - others
    return F.logsigmoid(torch.stack([margin, -margin], dim=1))


def sample_confidence(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> Tensor:
    """SCD times S^2, of logits [N,K] and labels [N]; no gradient to ``v``."""
    with torch.no_grad():
        log_p = log_confidence(full(v) / temperature, v.argmax(dim=1))
    log_q = log_confidence(full(z) / temperature, y)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def masked_correlation(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> Tensor:
    """MCD times T^2, of logits [N,K] and labels [N]; 0 where no class is below the label; no gradient to ``v``."""
    # Not -inf: a sample without a class below its label has two equal, uniform sides then, and none that is NaN.
    floor = torch.finfo(full(v).dtype).min
    masked = v >= v.gather(1, y[:, None])
    with torch.no_grad():
        log_p = F.log_softmax((full(v) / temperature).masked_fill(masked, floor), dim=1)
    log_q = F.log_softmax((full(z) / temperature).masked_fill(masked, floor), dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class RLD(Method):
    ce_weight: float
    alpha: float
    beta: float
    confidence_temperature: float
    temperature: float
    warm_up: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, v = step.student.logits, step.taught.logits
        scale = step.warm_up(self.warm_up)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "scd": scale * self.alpha * sample_confidence(z, v, step.y, self.confidence_temperature),
            "mcd": scale * self.beta * masked_correlation(z, v, step.y, self.temperature),
        }
