"""NST: match which positions the channels of a map are selective for, as a distribution over channels.

L = ce_weight * CE(y, softmax(z)) + weight * sum_l MMD^2( {f_c^s}, {f_c^t} ),
MMD^2 = mean_cc' k(f_c^t, f_c'^t) + mean_cc' k(f_c^s, f_c'^s) - 2 mean_cc' k(f_c^s, f_c'^t),   k(a, b) = (a.b)^2,

with f_c the channel c of a stage's map as a vector over positions, scaled to length 1; then the mean over samples. Of
two sizes the larger map is averaged to the smaller.
Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
https://arxiv.org/abs/1707.01219.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step
from kdbench.methods.stages import check_paired, match_size
from kdbench.models.outputs import DataSpec, NetworkSpec


def mean_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD^2 of the channels of maps [N,C_s,H,W] and [N,C_t,H,W], mean over samples; no gradient to ``teacher``.

    A sum of squared inner products is the squared norm of a Gram matrix, over channels or over positions alike: the
    smaller is made, so that memory grows with min(C, H W)^2. Over positions the three means are one difference.
    """
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in match_size(student, teacher.detach()))
    c_s, c_t, positions = s.shape[1], t.shape[1], s.shape[2]
    if positions <= min(c_s, c_t):
        return (s.mT @ s / c_s - t.mT @ t / c_t).square().sum(dim=(1, 2)).mean()
    within_s, within_t, between = s @ s.mT, t @ t.mT, s @ t.mT
    return within_s.square().mean() + within_t.square().mean() - 2 * between.square().mean()


class NST(Method):
    ce_weight: float
    weight: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_paired("nst", student, teacher)

    def loss(self, step: Step) -> dict[str, Tensor]:
        stages = zip(step.student.stages, step.taught.stages, strict=True)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "selectivity": self.weight * torch.stack([mean_discrepancy(s, t) for s, t in stages]).sum(),
        }
