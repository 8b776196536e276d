"""IJCKD: SimKD's student, whose reused teacher classifier must also name the label and give the teacher's logits.

L = ce_weight * CE(y, softmax(u)) + weight * mean ( P(F_s) - F_t )^2 + logit_weight * mean ( u - v )^2,
u = W_t(a(P(F_s))),

with SimKD's F_s, F_t, projector P, average a and frozen classifier W_t, and v the teacher's logits; u is scored. The
means are over all entries: positions too are matched, not only their average as in SRRL. The paper bounds the student's
error by the teacher's and by how far their representations are apart, where one classifier is good for both; W_t is
taken to be that one. The authors' pairs have last maps of one size that the classifiers average; for others kdbench
goes on as SimKD does, whose ``connector`` and ``head`` it has.
Li, Chen, Ditzler, Roveda and Li, "Knowledge Distillation Under Ideal Joint Classifier Assumption",
Neural Networks 173, 2024, https://arxiv.org/abs/2304.11004;
https://github.com/HuayuLiArizona/Knowledge-Distillation-Under-Ideal-Joint-Classifier-Assumption (commit b28f6c6).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Step, full
from kdbench.methods.zoo.simkd import SimKD


class IJCKD(SimKD):
    logit_weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms, logits = self.terms(step)
        taught = full(step.taught.logits).detach()
        return {**terms, "logit": self.logit_weight * F.mse_loss(logits, taught)}
