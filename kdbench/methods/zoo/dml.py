"""DML: no teacher; networks of the student's architecture learn together, each from the others' outputs.

L = sum_i [ ce_weight * CE(y, q_i) + weight * 1/(M-1) sum_{j != i} mean_B KL( q_j || q_i ) ],   i, j = 1..M,

with q_1 = softmax(z) of the student and the others those of its M - 1 = ``peers``, each of which starts from weights of
its own; no gradient passes through the q_j that is learnt from. All see a batch before any is updated. The student
alone is scored.
Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018, https://arxiv.org/abs/1706.00384.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models.factory import create
from kdbench.models.outputs import DataSpec, NetworkSpec


def lesson(number: int, outputs: Sequence[Tensor]) -> Tensor:
    """Mean divergence of network ``number`` from each other one, of all networks' logits [N,K]; no gradient to these.

    At temperature 1, as it is published.
    """
    others = [logits for other, logits in enumerate(outputs) if other != number]
    return torch.stack([kd_loss(outputs[number], logits, 1.0) for logits in others]).mean()


class DML(Method):
    ce_weight: float
    weight: float
    peers: int

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        mean, std = (getattr(student.module, name).flatten().tolist() for name in ("mean", "std"))
        made = {"classes": data.classes, "image_shape": data.image_shape, "mean": mean, "std": std}
        self.peer = create(student.name, **made)
        self.others = nn.ModuleList(create(student.name, **made) for _ in range(self.peers - 1))

    def loss(self, step: Step) -> dict[str, Tensor]:
        peers = [full(peer(step.x).logits) for peer in (self.peer, *self.others)]
        outputs = [full(step.student.logits), *peers]
        lessons = [lesson(number, outputs) for number in range(len(outputs))]
        return {
            "ce": self.ce_weight * step.cross_entropy(outputs[0]),
            "mutual": self.weight * lessons[0],
            "peer_ce": self.ce_weight * torch.stack([step.cross_entropy(logits) for logits in peers]).sum(),
            "peer_mutual": self.weight * torch.stack(lessons[1:]).sum(),
        }
