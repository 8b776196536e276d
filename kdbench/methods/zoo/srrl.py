"""SRRL: the student's features must serve the teacher's classifier as well as the teacher's own.

L = ce_weight * CE(y, softmax(z)) + feature_weight * mean ( g - h_t )^2 + logit_weight * mean ( W_t(g) - v )^2,

with g the student's features led into the teacher's space, h_t the teacher's pooled features and W_t its frozen
classifier. ``connector`` says how g is made: ``map`` averages a 1x1 convolution, batch norm and ReLU of the map that
the student's classifier pools, as in the authors' repository; ``pooled`` applies the same layers to the pooled
features, as in the SimKD toolbox, which adds plain KD to it.
Yang, Martinez, Bulat and Tzimiropoulos, "Knowledge distillation via softmax regression representation learning",
ICLR 2021, https://openreview.net/forum?id=ZzwDy_wiWv.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.heads import check_pooled_map, pooled_map, teacher_head
from kdbench.models.body import average
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs


def connector(channels: int, target: int) -> nn.Sequential:
    """1x1 convolution (He's initialisation by fan-out), batch norm and ReLU on maps, ``channels`` to ``target``."""
    conv = nn.Conv2d(channels, target, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(target), nn.ReLU())


class SRRL(Method):
    ce_weight: float
    feature_weight: float
    logit_weight: float
    connector: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        if self.connector == "map":
            check_pooled_map("srrl", student)
        self.connect = connector(student.pooled, teacher.pooled)

    def _features(self, student: Outputs) -> Tensor:
        """The student's features [N,D_t] in the teacher's space."""
        if self.connector == "map":
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
