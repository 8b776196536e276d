"""CE: the student alone, L = CE(y, softmax(z)). No teacher; the row every gain is measured against.

The reference numbers of most papers are the student baselines of Tian, Krishnan and Isola, "Contrastive Representation
Distillation", ICLR 2020, https://arxiv.org/abs/1910.10699.
"""

from __future__ import annotations

from torch import Tensor

from kdbench.methods.base import Method, Step


class CE(Method):
    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"ce": step.cross_entropy(step.student.logits)}
