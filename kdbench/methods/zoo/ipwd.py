"""IPWD: distil a sample the harder, the less likely its images are where the teacher's knowledge comes from.

L = ce_weight * CE(y, softmax(z)) + cls_weight * CE(y, softmax(h)) + kd_weight * T^2 * mean_B [ w * KL( p || q ) ],
w = 1 + min( CE(y, softmax(h')) / CE(y, softmax(z')), max_ratio ),

with p = softmax(v / T), q = softmax(z / T) and h the logits of a second classifier on the student's pooled features,
which learns from labels alone. w, without a gradient, is the inverse of the propensity with which a sample belongs to
the teacher's domain, estimated from how the two classifiers fit its label; z' and h' are z and h standardised over the
classes of a sample.

A reconstruction: no code is known. That h does not shape the features, the population deviation in z' and h', the bound
on the ratio and the weights are kdbench's.
Niu, Chen, Zhou and Zhang, "Respecting Transfer Gap in Knowledge Distillation", NeurIPS 2022,
https://arxiv.org/abs/2210.12787.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec


@torch.no_grad()
def inverse_propensity(z: Tensor, h: Tensor, y: Tensor, max_ratio: float) -> Tensor:
    """w [N] of the logits [N,K] of the classifier that is distilled, of the one that is not, and labels [N]."""
    # layer_norm without parameters is the standardisation over the classes, and finite where all logits are equal
    z, h = (F.layer_norm(logits, logits.shape[1:]) for logits in (z, h))
    distilled, plain = (F.cross_entropy(logits, y, reduction="none") for logits in (z, h))
    return 1 + (plain / distilled.clamp_min(torch.finfo(z.dtype).tiny)).clamp_max(max_ratio)


class IPWD(Method):
    ce_weight: float
    cls_weight: float
    kd_weight: float
    temperature: float
    max_ratio: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        self.classifier = nn.Linear(student.pooled, student.classes)

    def loss(self, step: Step) -> dict[str, Tensor]:
        pooled = step.student.pooled
        assert pooled is not None, "the card's needs list pooled"
        z, h = full(step.student.logits), self.classifier(full(pooled).detach())
        log_p = F.log_softmax(full(step.taught.logits).detach() / self.temperature, dim=1)
        log_q = F.log_softmax(z / self.temperature, dim=1)
        kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        weights = inverse_propensity(z, h, step.y, self.max_ratio)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "cls": self.cls_weight * step.cross_entropy(h),
            "kd": self.kd_weight * self.temperature**2 * (weights * kl).mean(),
        }
