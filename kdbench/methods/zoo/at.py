"""AT: match where in the image the two networks are active, whatever their numbers of channels.

L = ce_weight * CE(y, softmax(z)) + weight * sum_l D( Q(F_s^l), Q(F_t^l) ),   Q(F) = a / ||a||_2,   a = mean_C |F|^p,

over the stages l, Q flattened to a vector for each sample and the larger map pooled to the smaller. The variants differ
in D: ``official`` is the mean over samples and positions of the squared difference, as the authors' code and mdistiller
compute it, ``paper`` the mean over samples of its L2 norm.
Zagoruyko and Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks
via Attention Transfer", ICLR 2017, https://arxiv.org/abs/1612.03928.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.methods.stages import shrink
from kdbench.models.outputs import DataSpec, NetworkSpec


def attention(maps: Tensor, p: int, size: tuple[int, int]) -> Tensor:
    """Normalised attention [N, h*w] of maps [N,C,H,W] averaged down to ``size`` (h, w)."""
    return F.normalize(shrink(maps, size).abs().pow(p).mean(dim=1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor, p: int = 2, variant: str = "official") -> Tensor:
    """Distance of the attentions of maps [N,C_s,H_s,W_s] and [N,C_t,H_t,W_t]; no gradient to ``teacher``."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    with torch.no_grad():
        target = attention(full(teacher), p, size)
    difference = attention(full(student), p, size) - target
    distance: Tensor = vector_norm(difference, dim=1) if variant == "paper" else difference.square()
    return distance.mean()


class AT(Method):
    ce_weight: float
    weight: float
    p: int
    variant: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        if len(student.stages) != len(teacher.stages):
            raise UserError(
                f"at: {student.name} has {len(student.stages)} stages and {teacher.name} has {len(teacher.stages)}; "
                "attention transfer pairs them one by one, so choose networks with equally many."
            )

    def loss(self, step: Step) -> dict[str, Tensor]:
        stages = zip(step.student.stages, step.taught.stages, strict=True)
        distances = [attention_loss(s, t, self.p, self.variant) for s, t in stages]
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "at": self.weight * torch.stack(distances).sum(),
        }
