"""TeKAP, its logit form: besides the teacher, several noisy copies of its logits teach the student.

L = ce_weight * CE(y, softmax(z))
    + kd_weight * T^2 * mean_B [ KL(p(v) || q) + copy_weight * sum_k KL( p((1 - noise) v + noise * e_k) || q ) ],

with p(.) = softmax(. / T), q = softmax(z / T) and e_k standard normal, drawn anew in every step. The copies are summed,
not averaged: with three of them KL counts 1 + 3 * 0.8 = 3.4 times. The noise does not scale with the teacher's logits.
Hossain, Akhter, Hong and Huh, "Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced
Knowledge Distillation", ICLR 2025, https://openreview.net/forum?id=DmEHmZ89iB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.kd import kd_loss


class TeKAP(Method):
    ce_weight: float
    kd_weight: float
    temperature: float
    copies: int
    copy_weight: float
    noise: float

    def draw(self, step: Step) -> Tensor:
        """e [copies,N,K] of this step."""
        v = full(step.taught.logits)
        generator = step.generator("tekap")
        return torch.randn(self.copies, *v.shape, generator=generator, dtype=v.dtype, device=v.device)

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, v = full(step.student.logits), full(step.taught.logits)
        copies = torch.lerp(v.detach(), self.draw(step), self.noise)
        # All copies as one batch: the mean over N times copies becomes the sum over the copies.
        repeated = z.repeat(self.copies, 1)
        perturbed = self.copies * kd_loss(repeated, copies.flatten(0, 1), self.temperature)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "kd": self.kd_weight * kd_loss(z, v, self.temperature),
            "copies": self.kd_weight * self.copy_weight * perturbed,
        }
