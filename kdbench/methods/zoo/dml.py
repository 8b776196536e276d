"""DML: no teacher; two networks of the student's architecture learn together, each from the other's output.

L = sum_{i = 1, 2} [ ce_weight * CE(y, q_i) + weight * mean_B KL( q_j || q_i ) ],   j the other one of i,

with q_1 = softmax(z) of the student and q_2 of its peer, which starts from weights of its own; no gradient passes
through the q_j that is learnt from. Both see a batch before either is updated. The student alone is scored.
Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018, https://arxiv.org/abs/1706.00384.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models.factory import create
from kdbench.models.outputs import DataSpec, NetworkSpec


class DML(Method):
    ce_weight: float
    weight: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        mean, std = (getattr(student.module, name).flatten().tolist() for name in ("mean", "std"))
        self.peer = create(student.name, classes=data.classes, image_shape=data.image_shape, mean=mean, std=std)

    def loss(self, step: Step) -> dict[str, Tensor]:
        student, peer = full(step.student.logits), full(self.peer(step.x).logits)
        return {
            "ce": self.ce_weight * F.cross_entropy(student, step.y),
            "mutual": self.weight * kd_loss(student, peer, 1.0),
            "peer_ce": self.ce_weight * F.cross_entropy(peer, step.y),
            "peer_mutual": self.weight * kd_loss(peer, student, 1.0),
        }
