"""SimKD: the student learns to make the teacher's last map and is deployed with the teacher's classifier.

L = ce_weight * CE(y, softmax(W_t(a(P(F_s))))) + weight * mean ( P(F_s) - F_t )^2,

with F_s the student's last stage, F_t the map that the teacher's classifier pools, P a projector of three convolutions
(1x1 down to C_t / factor channels, 3x3, 1x1 up to C_t, each with batch norm and ReLU), a the average over positions and
W_t the teacher's frozen classifier; the larger map is averaged down to the smaller. What is scored is W_t(a(P(F_s))):
the student without its classifier, the projector and W_t. As published, labels are not used: ce_weight is 0. A
convolution after the student's last stage (MobileNetV2, ShuffleNetV2) is passed over, as in the authors' code.
Chen, Mei, Zhang, Wang, Feng and Chen, "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
https://arxiv.org/abs/2203.14001.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.methods.heads import Average, Deployed, check_pooled_map, pooled_map, teacher_head
from kdbench.methods.stages import shrink
from kdbench.models.body import average
from kdbench.models.outputs import DataSpec, NetworkSpec


def _block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def projector(inputs: int, outputs: int, middle: int) -> nn.Sequential:
    """SimKD's bottleneck on maps: ``inputs`` channels to ``middle``, to ``middle``, to ``outputs``."""
    return nn.Sequential(*_block(inputs, middle, 1), *_block(middle, middle, 3), *_block(middle, outputs, 1))


class Shrink(nn.Module):
    """Maps [N,C,H,W] averaged down to a fixed size (h, w)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        return shrink(maps, self.size)


class SimKD(Method):
    ce_weight: float
    weight: float
    factor: int

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_pooled_map(self.spec.name, teacher)
        (c_s, h_s, w_s), (c_t, h_t, w_t) = student.stages[-1], teacher.pooled_map
        if c_t < self.factor:
            raise UserError(
                f"{self.spec.name}: factor {self.factor} leaves none of {teacher.name}'s {c_t} channels; lower it."
            )
        self.shrink = Shrink((min(h_s, h_t), min(w_s, w_t)))
        self.projector = projector(c_s, c_t, c_t // self.factor)
        # In a tuple, both stay out of this method's parameters: one is the student's, the other is frozen.
        self.heads = (student.head, teacher.head)

    def terms(self, step: Step) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of SimKD's loss, and the logits [N,K] of the network that is deployed."""
        projected = self.projector(self.shrink(full(step.student.stages[-1])))
        logits = teacher_head(step)(average(projected))
        target = self.shrink(pooled_map(step.taught)).detach()
        terms = {
            "ce": self.ce_weight * step.cross_entropy(logits),
            "feature": self.weight * F.mse_loss(projected, target),
        }
        return terms, logits

    def loss(self, step: Step) -> dict[str, Tensor]:
        return self.terms(step)[0]

    def deployed(self, student: nn.Module) -> nn.Module:
        own, reused = self.heads
        return Deployed(student, own, nn.Sequential(self.shrink, self.projector, Average(), reused), "stages")
