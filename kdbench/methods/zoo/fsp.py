"""FSP: before the main training, match how features flow from each stage to the next.

First phase:  L = weight * sum_l mean ( G_s^l - G_t^l )^2,   G^l_ij = mean over positions of F^l_i F^(l+1)_j,
main training: L = ce_weight * CE(y, softmax(z)),

with F the maps after the stem and after every stage, of two sizes the larger averaged to the smaller, and i and j their
channels, of which student and teacher need equally many. The first phase lasts 30 epochs of 240 at the protocol's first
rate; there the published benchmark takes the sum as it is, its weight of 50 has no effect.
Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017, https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Phase, Step
from kdbench.methods.stages import match_size
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs


def flow(lower: Tensor, upper: Tensor) -> Tensor:
    """FSP matrix [N,C_upper,C_lower] of maps [N,C,H,W] of two neighbouring stages."""
    lower, upper = match_size(lower, upper)
    return upper.flatten(2) @ lower.flatten(2).mT / lower[0, 0].numel()


def flow_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared gap of the FSP matrices, summed over neighbours in lists of maps; no gradient to ``teacher``."""
    gaps = []
    for i in range(len(student) - 1):
        with torch.no_grad():
            target = flow(teacher[i], teacher[i + 1])
        gaps.append(F.mse_loss(flow(student[i], student[i + 1]), target))
    return torch.stack(gaps).sum()


def _maps(outputs: Outputs) -> list[Tensor]:
    assert outputs.stem is not None, "the card's needs list the stem"
    return [outputs.stem, *outputs.stages]


class FSP(Method):
    ce_weight: float
    weight: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        widths = [[shape[0] for shape in (network.stem, *network.stages)] for network in (student, teacher)]
        if widths[0] != widths[1]:
            raise UserError(
                f"fsp: stem and stages of {student.name} have {widths[0]} channels, {teacher.name} has {widths[1]}; "
                "FSP matrices are compared entry by entry, so choose networks of equal widths."
            )

    def phases(self) -> Sequence[Phase]:
        return (Phase("flow", 30, self.match_flow, method=False),)

    def match_flow(self, step: Step) -> dict[str, Tensor]:
        """The loss of the first phase."""
        return {"flow": self.weight * flow_loss(_maps(step.student), _maps(step.taught))}

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"ce": self.ce_weight * step.cross_entropy(step.student.logits)}
