"""TeKAP, its feature form: CRD in which a noisy copy of the teacher's features is told apart, too.

L = ce_weight * CE(y, softmax(z)) + weight * [ 2 N(s, M_t) + N(t, M_s) + N(t', M_s) ],

with N, s, t and the memories of CRD (crd.py), and t' the embedding of (1 - noise) h_t + noise * deviation * e, where
h_t are the teacher's pooled features and e is standard normal, drawn anew in every step. The memories take up s and t
before t' is compared, and s and t' after it, so that an old entry keeps momentum^2 of its weight.
Hossain, Akhter, Hong and Huh, "Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced
Knowledge Distillation", ICLR 2025, https://openreview.net/forum?id=DmEHmZ89iB; its form is that of the authors' code,
mdimtiazh/TeKAP@279d380, crd/criterion.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Step, full
from kdbench.methods.zoo.crd import CRD, contrast


class TeKAPFeatures(CRD):
    noise: float
    deviation: float

    def perturbed(self, step: Step) -> Tensor:
        """The teacher's pooled features [N,D] with this step's noise."""
        assert step.taught.pooled is not None, "the card's needs list pooled"
        pooled = full(step.taught.pooled).detach()
        e = torch.randn(pooled.shape, generator=step.generator("tekap"), dtype=pooled.dtype, device=pooled.device)
        return torch.lerp(pooled, self.deviation * e, self.noise)

    def loss(self, step: Step) -> dict[str, Tensor]:
        s, t = self.embedded(step)
        chosen = self.chosen(step)
        student, teacher = self.compare(s, t, chosen)
        self.update(step.index, s, t)
        noisy = F.normalize(self.embed_t(self.perturbed(step)))
        copy = contrast(self.scores(noisy, self.memory_s, chosen), self.log_z[1], len(self.labels))
        self.update(step.index, s, noisy)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "contrast": self.weight * (2 * student + teacher),
            "copy": self.weight * copy,
        }
