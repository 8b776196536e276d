"""KD with an explicit Renyi entropy: what TTM is, with the term that sets it apart at a weight of its own.

L = ce_weight * CE(y, q) + beta * mean_B [T KL(p_T || q_T) - renyi_weight * (T - 1) * H_{1/T}(q)],

with p_T = softmax(v / T), q_T = softmax(z / T), q = softmax(z) and the Renyi entropy
H_a(q) = log(sum_j q_j^a) / (1 - a). At renyi_weight 1 it differs from TTM with gamma = 1 / T by a constant, at 0 it is
KD with kd_weight = beta / T. Made for the study of TTM, after the decomposition in Zheng and Yang, "Knowledge
Distillation Based on Transformed Teacher Matching", ICLR 2024, https://arxiv.org/abs/2402.11148.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.kd import kd_loss


def renyi_entropy(z: Tensor, order: float) -> Tensor:
    """mean_B of the Renyi entropy of that ``order`` (not 1) of softmax(z), of logits [N,K], in nats."""
    log_q = F.log_softmax(full(z), dim=1)
    return (order * log_q).logsumexp(dim=1).mean() / (1 - order)


class KDRenyi(Method):
    ce_weight: float
    beta: float
    temperature: float
    renyi_weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, t = step.student.logits, self.temperature
        terms = {
            "ce": self.ce_weight * F.cross_entropy(full(z), step.y),
            "kd": self.beta / t * kd_loss(z, step.taught.logits, t),
        }
        if self.renyi_weight:
            terms["renyi"] = -self.renyi_weight * self.beta * (t - 1) * renyi_entropy(z, 1 / t)
        return terms
