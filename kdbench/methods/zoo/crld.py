"""CRLD: KD within and across a weak and a strong view, where the teacher is sure of what it sees.

L = ce_weight * [CE(y, z_w) + CE(y, z_s)]
  + within_weight * mean_B { [K(v_w, z_w) + K(v_s, z_s)] 1[c(v_w) >= weak_threshold] }
  + across_weight * mean_B { [K(v_w, z_s) + K(v_s, z_w)] 1[c(v_s) >= strong_threshold] },

K(v, z) = T^2 KL(softmax(v / T) || softmax(z / T)) of a sample and c the teacher's largest probability at T = 1; samples
it is not sure of count in the mean as 0. Zhang, Liu, Cai and Ma, "Cross-View Consistency Regularisation for Knowledge
Distillation", ACM Multimedia 2024, https://arxiv.org/abs/2412.16493.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def confident(v: Tensor, threshold: float) -> Tensor:
    """1 [B] where the largest probability of logits [B,K] is at least ``threshold``, else 0."""
    return (v.softmax(dim=1).amax(dim=1) >= threshold).to(v.dtype)


class CRLD(Method):
    ce_weight: float
    within_weight: float
    across_weight: float
    temperature: float
    weak_threshold: float
    strong_threshold: float

    def divergence(self, v: Tensor, z: Tensor) -> Tensor:
        """K [B] of logits [B,K]."""
        log_p, log_q = F.log_softmax(v / self.temperature, dim=1), F.log_softmax(z / self.temperature, dim=1)
        return self.temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)

    def loss(self, step: Step) -> dict[str, Tensor]:
        strong = step.views["strong"]
        z_weak, v_weak = full(step.student.logits), full(step.taught.logits).detach()
        z_strong, v_strong = full(strong.student.logits), full(strong.taught.logits).detach()
        within = self.divergence(v_weak, z_weak) + self.divergence(v_strong, z_strong)
        across = self.divergence(v_weak, z_strong) + self.divergence(v_strong, z_weak)
        return {
            "ce": self.ce_weight * (step.cross_entropy(z_weak) + step.cross_entropy(z_strong)),
            "within": self.within_weight * (within * confident(v_weak, self.weak_threshold)).mean(),
            "across": self.across_weight * (across * confident(v_strong, self.strong_threshold)).mean(),
        }
