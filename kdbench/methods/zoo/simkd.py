"""SimKD: the student learns to make the teacher's last map and is deployed with the teacher's classifier.

L = ce_weight * CE(y, softmax(W_t(a(P(F_s))))) + weight * mean ( P(F_s) - F_t )^2,

with F_s the student's last stage, F_t the map that the teacher's classifier pools, P a projector of three convolutions
(1x1 down to C_t / factor channels, 3x3, 1x1 up to C_t, each with batch norm and ReLU), a the average over positions and
W_t the teacher's frozen classifier; the larger map is averaged down to the smaller. What is scored is W_t(a(P(F_s))):
the student without its classifier, the projector and W_t. As published, labels are not used: ce_weight is 0. A
convolution after the student's last stage (MobileNetV2, ShuffleNetV2) is passed over, as in the authors' code.
``connector`` puts another network in the place of P. With the ``head`` of the student, labels are taught to its own
classifier, which is scored; P and W_t are gone after training.
Chen, Mei, Zhang, Wang, Feng and Chen, "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
https://arxiv.org/abs/2203.14001.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.methods.connectors import check_factor, connector
from kdbench.methods.heads import Average, Deployed, check_pooled_map, pooled_map, teacher_head
from kdbench.methods.stages import shrink
from kdbench.models.body import average
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs


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
    connector: str
    head: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_pooled_map(self.spec.name, teacher)
        (c_s, h_s, w_s), (c_t, h_t, w_t) = student.stages[-1], teacher.pooled_map
        check_factor(self.spec.name, self.factor, teacher, c_t)
        if self.head == "student" and not self.ce_weight:
            raise UserError(
                f"{self.spec.name}: nothing teaches the student's own head; give ce_weight a value above 0."
            )
        self.shrink = Shrink((min(h_s, h_t), min(w_s, w_t)))
        self.projector = connector(self.connector, c_s, c_t, self.factor, self.spec.name)
        # In a tuple, both stay out of this method's parameters: one is the student's, the other is frozen.
        self.heads = (student.head, teacher.head)

    def terms(self, step: Step) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of SimKD's loss, and the logits [N,K] of the teacher's classifier."""
        projected = self._projected(step.student)
        logits = teacher_head(step)(average(projected))
        labelled = step.student.logits if self.head == "student" else logits
        target = self.shrink(pooled_map(step.taught)).detach()
        terms = {
            "ce": self.ce_weight * step.cross_entropy(labelled),
            "feature": self.weight * F.mse_loss(projected, target),
        }
        return terms, logits

    def _projected(self, student: Outputs) -> Tensor:
        projected: Tensor = self.projector(self.shrink(full(student.stages[-1])))
        return projected

    def connected(self, student: Outputs) -> Tensor:
        return average(self._projected(student))

    def loss(self, step: Step) -> dict[str, Tensor]:
        return self.terms(step)[0]

    def deployed(self, student: nn.Module) -> nn.Module:
        if self.head == "student":
            return student
        own, reused = self.heads
        return Deployed(student, own, nn.Sequential(self.shrink, self.projector, Average(), reused), "stages")
