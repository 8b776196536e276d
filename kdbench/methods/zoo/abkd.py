"""ABKD: an alpha-beta divergence, which has KL (alpha 1, beta 0) and reverse KL (alpha 0, beta 1) at its ends.

L = ce_weight * CE(y, softmax(z)) + weight * mean_B D( softmax(v / T), softmax(z / T) ),
D(p, q) = 1 / (alpha beta) * sum_c [ (alpha p_c^(alpha+beta) + beta q_c^(alpha+beta)) / (alpha + beta)
                                     - p_c^alpha q_c^beta ],

without T^2. Either power may be negative, which makes the classes count that its side finds unlikely; a power that
overflows stays at the root of the largest number, where it has no gradient. Where alpha, beta or their sum is 0,
``paper`` takes the limit of D. The authors' code (``official``) has that limit times alpha, or times beta where alpha
is 0, which is the same where that is 1.
Wang, Yang, Wang, Wang, Xu and Huang, "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
Distillation via α-β-Divergence", ICML 2025, https://arxiv.org/abs/2505.04560.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def _bounded(exponent: Tensor) -> Tensor:
    """``exponent``, so far as e to it may be summed and multiplied: a negative power of 0 must not become inf * 0."""
    return exponent.clamp_max(math.log(torch.finfo(exponent.dtype).max) / 2)


def _one_sided(log_a: Tensor, log_b: Tensor, power: float) -> Tensor:
    """Generalised KL divergence [N] of the powers a^power and b^power, of log-probabilities [N,K]."""
    a, b = _bounded(power * log_a).exp(), _bounded(power * log_b).exp()
    return (a * power * (log_a - log_b) - a + b).sum(dim=1)


def divergence(log_p: Tensor, log_q: Tensor, alpha: float, beta: float, variant: str = "paper") -> Tensor:
    """D [N] of log-probabilities [N,K]."""
    total = alpha + beta
    if alpha == beta == 0:
        return 0.5 * (log_q - log_p).square().sum(dim=1)
    if alpha == 0 or beta == 0:
        one = _one_sided(log_q, log_p, beta) if alpha == 0 else _one_sided(log_p, log_q, alpha)
        return one / (total if variant == "official" else total**2)
    if total == 0:
        ratio = alpha * (log_p - log_q)
        return (_bounded(ratio).expm1() - ratio).sum(dim=1) / (alpha if variant == "official" else alpha**2)
    mixed = (alpha * _bounded(total * log_p).exp() + beta * _bounded(total * log_q).exp()) / total
    return (mixed - _bounded(alpha * log_p + beta * log_q).exp()).sum(dim=1) / (alpha * beta)


class ABKD(Method):
    ce_weight: float
    weight: float
    alpha: float
    beta: float
    temperature: float
    variant: str

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        with torch.no_grad():
            log_p = F.log_softmax(full(step.taught.logits) / self.temperature, dim=1)
        log_q = F.log_softmax(z / self.temperature, dim=1)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "divergence": self.weight * divergence(log_p, log_q, self.alpha, self.beta, self.variant).mean(),
        }
