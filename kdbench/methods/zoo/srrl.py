"""SRRL: the student's features must serve the teacher's classifier as well as the teacher's own.

L = ce_weight * CE(y, softmax(z)) + feature_weight * mean ( g - h_t )^2 + logit_weight * mean ( W_t(g) - v )^2,

with g the student's features led into the teacher's space, h_t the teacher's pooled features and W_t its frozen
classifier. ``connector`` says how g is made: ``map`` averages a 1x1 convolution, batch norm and ReLU of the map that
the student's classifier pools, as in the authors' repository; ``pooled`` applies the same layers to the pooled
features, as in the SimKD toolbox, which adds plain KD to it; ``bottleneck``, ``mlp`` and ``none`` work on the map, too.
With the ``head`` of the teacher the training is the same, and W_t on g is scored in the place of the student's own.
Yang, Martinez, Bulat and Tzimiropoulos, "Knowledge distillation via softmax regression representation learning",
ICLR 2021, https://openreview.net/forum?id=ZzwDy_wiWv.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.connectors import check_factor, connector
from kdbench.methods.heads import Average, Deployed, check_pooled_map, pooled_map, teacher_head
from kdbench.models.body import average
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs

#: How many times narrower than the teacher's map the inner layers of a bottleneck are, as SimKD's.
FACTOR = 2


def _one_by_one(channels: int, target: int) -> nn.Sequential:
    """1x1 convolution (He's initialisation by fan-out), batch norm and ReLU on maps, ``channels`` to ``target``."""
    conv = nn.Conv2d(channels, target, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(target), nn.ReLU())


class SRRL(Method):
    ce_weight: float
    feature_weight: float
    logit_weight: float
    connector: str
    head: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        if self.connector != "pooled":
            check_pooled_map("srrl", student)
        if self.connector in ("map", "pooled"):
            self.connect = _one_by_one(student.pooled, teacher.pooled)
        else:
            check_factor("srrl", FACTOR, teacher, teacher.pooled)
            self.connect = connector(self.connector, student.pooled, teacher.pooled, FACTOR, "srrl")
        # In a tuple, both stay out of this method's parameters: one is the student's, the other is frozen.
        self.heads = (student.head, teacher.head)

    def _features(self, student: Outputs) -> Tensor:
        """The student's features [N,D_t] in the teacher's space."""
        if self.connector != "pooled":
            return average(self.connect(pooled_map(student)))
        assert student.pooled is not None, "the card's needs list pooled"
        features: Tensor = self.connect(full(student.pooled)[:, :, None, None])
        return features.flatten(1)

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught = step.taught.detach()
        assert taught.pooled is not None, "the card's needs list pooled"
        features = self._features(step.student)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "feature": self.feature_weight * F.mse_loss(features, full(taught.pooled)),
            "logit": self.logit_weight * F.mse_loss(teacher_head(step)(features), full(taught.logits)),
        }

    def connected(self, student: Outputs) -> Tensor:
        return self._features(student)

    def deployed(self, student: nn.Module) -> nn.Module:
        if self.head == "student":
            return student
        own, reused = self.heads
        if self.connector == "pooled":
            led = nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), self.connect, nn.Flatten())
            return Deployed(student, own, nn.Sequential(led, reused), "pooled")
        return Deployed(student, own, nn.Sequential(self.connect, Average(), reused))
