"""AB: before the main training, match which neurons are active, not how much.

First phase:  L = weight * 3/1000 * sum_l 2^(l-n) 1/B sum A( r_l(P_s^l), P_t^l ),   l = 1..n,
    A(s, t) = (s + m)^2 where t <= 0 and s > -m,   (s - m)^2 where t > 0 and s <= m,   0 elsewhere;
main training: L = ce_weight * CE(y, softmax(z)),

with P the maps before each of the n stages' last ReLU, m the margin and r convolution and batch norm where shapes
differ. The first phase lasts 30 epochs of 240 at the protocol's first rate.
Heo, Lee, Yun and Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
AAAI 2019, https://arxiv.org/abs/1811.03233.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods.base import Method, Phase, Step, full
from kdbench.methods.stages import check_paired
from kdbench.methods.zoo.fitnet import regressor
from kdbench.models.outputs import DataSpec, NetworkSpec, Shape


def connector(student: Shape, teacher: Shape) -> nn.Module:
    """Convolution and batch norm from maps of shape ``student`` to ``teacher``; nothing where they are equal."""
    if student == teacher:
        return nn.Identity()
    (_, h_s, w_s), (_, h_t, w_t) = student, teacher
    if (h_s < h_t or w_s < w_t) and (2 * h_s, 2 * w_s) != (h_t, w_t):
        raise UserError(
            f"ab: no connector leads from the student's {h_s}x{w_s} map to the teacher's {h_t}x{w_t}; "
            "the student's may be equal, half as large or larger."
        )
    return regressor(student, teacher)[:2]


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """A summed over all but the batch, mean over it, of preactivations [N,C,H,W]; no gradient to ``teacher``."""
    active = full(teacher).detach() > 0
    shortfall = torch.where(active, (margin - student).clamp_min(0), (student + margin).clamp_min(0))
    return shortfall.square().sum() / len(student)


class AB(Method):
    ce_weight: float
    weight: float
    margin: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_paired("ab", student, teacher)
        self.connectors = nn.ModuleList(connector(s, t) for s, t in zip(student.preacts, teacher.preacts, strict=True))

    def phases(self) -> Sequence[Phase]:
        return (Phase("boundaries", 30, self.match_boundaries),)

    def match_boundaries(self, step: Step) -> dict[str, Tensor]:
        """The loss of the first phase."""
        stages = list(zip(self.connectors, step.student.preacts, step.taught.preacts, strict=True))
        losses = [
            2.0 ** (number - len(stages)) * boundary_loss(connect(full(s)), t, self.margin)
            for number, (connect, s, t) in enumerate(stages, start=1)
        ]
        return {"boundaries": self.weight * 3 / 1000 * torch.stack(losses).sum()}

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"ce": self.ce_weight * step.cross_entropy(step.student.logits)}
