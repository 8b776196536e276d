"""LumiNet: KL divergence of logits that are standardised class by class over the batch.

L = ce_weight * CE(y, softmax(z)) + w(epoch) * alpha^2 * mean_B KL( softmax(v' / T) || softmax(z' / T) ),
z'_bc = (z_bc - mean_b z_bc) / sqrt(var_b z_bc + 1e-5),   w = min(epoch / warm_up, 1),

v' likewise, the variance over the batch without Bessel's correction; the gradient flows through mean and variance. The
factor is alpha^2, not T^2, as in the authors' code. The term depends on the batch size; a batch of one teaches nothing.
Hossain, Elahi, Ramasinghe, Cheraghian, Rahman, Mohammed and Rahman, "LumiNet: Perception-Driven Knowledge Distillation
via Statistical Logit Calibration", TMLR 2025, https://arxiv.org/abs/2310.03669.
"""

from __future__ import annotations

from torch import Tensor

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.kd import kd_loss

_EPS = 1e-5


def perception(logits: Tensor) -> Tensor:
    """Logits [N,K], each class standardised over the batch."""
    centred = logits - logits.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + _EPS).sqrt()


def luminet_loss(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """mean_B KL of the standardised logits at T, without T^2, of logits [N,K]; no gradient to ``v``."""
    return kd_loss(perception(full(z)), perception(full(v)), temperature) / temperature**2


class LumiNet(Method):
    ce_weight: float
    alpha: float
    temperature: float
    warm_up: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        perceived = luminet_loss(z, step.taught.logits, self.temperature)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "perception": step.warm_up(self.warm_up) * self.alpha**2 * perceived,
        }
