"""USKD: soft labels without a teacher, made from the student's own output and a weak head on a middle map.

L = ce_weight * CE(y, softmax(z)) - alpha * mean_B [ w log q_y ] - beta * mean_B [ sum_{c != y} u_c log q'_c ]
    - mu * mean_B [ sum_c s_c log r_c ],
w = q_y^2 + 1 - mean_B q_y^2,   s_c = 0.9 * 1[c = y] + 0.1 / K,

with q = softmax(z), q' the softmax over the classes that are not the label, r = softmax of the weak head, a linear
layer on the pooled maps of the last stage but one. u is Zipf's law: the classes are ranked by
r_c / (1 - r_y) + log q_c / (1 - log q_y), and u_c is 1 / rank_c, without the label, over its sum. w and u have no
gradient. The ranking adds a probability to a log-probability, as the authors' code does. w depends on the batch.
Yang, Zeng, Li, Zhang, Yuan and Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
Normalized Loss and Customized Soft Labels", ICCV 2023, https://arxiv.org/abs/2303.13005.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.zoo.nkd import label_mask, others_log_softmax
from kdbench.models.outputs import DataSpec, NetworkSpec

_EPS = 1e-6  # of the published implementation
_SMOOTHING = 0.1  # of the weak head's labels


@torch.no_grad()
def target_weights(z: Tensor, y: Tensor) -> Tensor:
    """w [N] of logits [N,K] and labels [N]; its mean over the batch is 1."""
    squared = F.softmax(z, dim=1).gather(1, y[:, None])[:, 0].square()
    return squared + 1 - squared.mean()


@torch.no_grad()
def zipf_labels(z: Tensor, weak: Tensor, y: Tensor) -> Tensor:
    """u [N,K] of logits [N,K], the weak head's logits [N,K] and labels [N]: sums to 1, is 0 at the label.

    Of classes that score alike the first has the better rank.
    """
    r, log_q = F.softmax(weak, dim=1), F.log_softmax(z, dim=1)
    score = r / (1 - r.gather(1, y[:, None]) + _EPS) + log_q / (1 - log_q.gather(1, y[:, None]) + _EPS)
    order = score.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(1, z.shape[1] + 1, device=z.device).expand_as(order)
    )
    u = ranks.to(z.dtype).reciprocal().masked_fill(label_mask(z, y), 0.0)
    return u / u.sum(dim=1, keepdim=True)


class USKD(Method):
    ce_weight: float
    alpha: float
    beta: float
    mu: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        self.weak_head = nn.Linear(student.stages[-2][0], student.classes)

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, y = full(step.student.logits), step.y
        weak = self.weak_head(full(step.student.stages[-2]).mean(dim=(2, 3)))
        target = target_weights(z, y) * F.cross_entropy(z, y, reduction="none")
        others = -(zipf_labels(z, weak, y) * others_log_softmax(z, y)).sum(dim=1)
        return {
            "ce": self.ce_weight * F.cross_entropy(z, y),
            "target": self.alpha * target.mean(),
            "others": self.beta * others.mean(),
            "weak": self.mu * F.cross_entropy(weak, y, label_smoothing=_SMOOTHING),
        }
