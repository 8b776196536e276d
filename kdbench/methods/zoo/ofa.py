"""OFA-KD: a classifier on every stage of the student learns the teacher's logits, with the target class enhanced.

L = ce_weight * CE(y, q) + kd_weight * D(q) + heads_weight * sum_l D(q_l),
D(q) = mean_B [ -sum_c ( (p_c + 1[c = y])^epsilon - 1[c = y] ) log q_c ],

with p = softmax(v / T), q = softmax(z / T) in D, and q_l likewise from the head on stage l. As only logits are
compared, the two architectures need have nothing in common. A head halves the map with separable convolutions as often
as stages follow, pools it and classifies; the last stage's has a 1x1 convolution instead. The heads are dropped after
training.
Hao, Guo, Han, Tang, Hu, Wang and Xu, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation", NeurIPS 2023, https://arxiv.org/abs/2310.19444.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.nkd import label_mask
from kdbench.models.outputs import DataSpec, NetworkSpec


def ofa_loss(z: Tensor, v: Tensor, y: Tensor, epsilon: float, temperature: float) -> Tensor:
    """D of logits [N,K] and labels [N]; no gradient to ``v``. With epsilon 1 it is the two networks' cross-entropy."""
    label = label_mask(z, y).to(full(z).dtype)
    p = F.softmax(full(v).detach() / temperature, dim=1)
    target = (p + label) ** epsilon - label
    return -(target * F.log_softmax(full(z) / temperature, dim=1)).sum(dim=1).mean()


def _separable(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def stage_head(channels: int, following: int, width: int, classes: int) -> nn.Sequential:
    """From maps [N,channels,H,W] to logits [N,classes]; ``following`` stages come after, it ends ``width`` wide."""
    layers: list[nn.Module] = []
    for block in range(following):
        out = width if block == following - 1 else 2 * channels
        layers += _separable(channels, channels, 2) + _separable(channels, out, 1)
        channels = out
    if not following:
        layers.append(nn.Conv2d(channels, width, 1))
    head = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    for layer in head:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return head


class OFA(Method):
    ce_weight: float
    kd_weight: float
    heads_weight: float
    epsilon: float
    temperature: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        width, last = max(student.pooled, teacher.pooled), len(student.stages) - 1
        self.heads = nn.ModuleList(
            stage_head(shape[0], last - number, width, student.classes) for number, shape in enumerate(student.stages)
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, v = full(step.student.logits), step.taught.logits
        outputs = [head(full(stage)) for head, stage in zip(self.heads, step.student.stages, strict=True)]
        heads = [ofa_loss(logits, v, step.y, self.epsilon, self.temperature) for logits in outputs]
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "kd": self.kd_weight * ofa_loss(z, v, step.y, self.epsilon, self.temperature),
            "heads": self.heads_weight * torch.stack(heads).sum(),
        }
