"""NKD: learn the target class at the teacher's confidence, and how the other classes share what is left.

L = ce_weight * CE(y, softmax(z)) + mean_B [ -p_y log q_y ] + gamma * T^2 * mean_B [ -sum_{c != y} p'_c log q'_c ],

with p = softmax(v) and q = softmax(z) at temperature 1, p' and q' the softmax over the classes that are not the target,
of v / T and z / T: unlike in KD both sides of the last term sum to one.
Yang, Zeng, Li, Zhang, Yuan and Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
Normalized Loss and Customized Soft Labels", ICCV 2023, https://arxiv.org/abs/2303.13005.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def label_mask(logits: Tensor, y: Tensor) -> Tensor:
    """Where logits [N,K] are those of the labels ``y`` [N]: bool [N,K]."""
    return torch.arange(logits.shape[1], device=y.device) == y[:, None]


def others_log_softmax(logits: Tensor, y: Tensor) -> Tensor:
    """Log-probabilities [N,K] of the classes that are not the label, among themselves; 0 at the label."""
    label = label_mask(logits, y)
    return F.log_softmax(logits.masked_fill(label, -torch.inf), dim=1).masked_fill(label, 0.0)


def target_cross_entropy(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """mean_B -p_y log q_y of logits [N,K] at temperature 1; no gradient to ``v``."""
    p_y = F.softmax(full(v).detach(), dim=1).gather(1, y[:, None])[:, 0]
    return (p_y * F.cross_entropy(full(z), y, reduction="none")).mean()


def others_cross_entropy(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> Tensor:
    """mean_B -sum_{c != y} p'_c log q'_c of logits [N,K], without T^2; no gradient to ``v``."""
    p = F.softmax(full(v).detach().masked_fill(label_mask(v, y), -torch.inf) / temperature, dim=1)
    return -(p * others_log_softmax(full(z) / temperature, y)).sum(dim=1).mean()


class NKD(Method):
    ce_weight: float
    gamma: float
    temperature: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, v = step.student.logits, step.taught.logits
        others = others_cross_entropy(z, v, step.y, self.temperature)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "target": target_cross_entropy(z, v, step.y),
            "others": self.gamma * self.temperature**2 * others,
        }
