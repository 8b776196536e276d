"""USKD: soft labels without a teacher, made from the student's own output and a weak head on a middle map.

L = ce_weight * CE(y, softmax(z)) - alpha * mean_B [ w log q_y ] - beta * mean_B [ sum_{c != y} u_c log q'_c ]
    - mu * mean_B [ sum_c s_c log r_c ],
w = q_y^2 + 1 - mean_B q_y^2,   s_c = 0.9 * 1[c = y] + 0.1 / K,

with q = softmax(z), q' the softmax over the classes that are not the label, r = softmax of the weak head, a linear
layer on the pooled maps of the last stage but one. u is Zipf's law: the classes are ranked by
r_c / (1 - r_y) + log q_c / (1 - log q_y), and u_c is 1 / rank_c, without the label, over its sum. w and u have no
gradient. The ranking adds a probability to a log-probability, as the authors' code does. w depends on the batch.

Labels may be mixed: y [N,K] in the place of y [N], the shares of the classes in an image that was made of two. The two
largest shares are those of two labels a and b: the second term has w_a log q_a + w_b log q_b, with their shares in the
place of the 1 and w = 0 where a share is 0; u and q' go without both, the ranking subtracts both from 1, and s_c is
0.9 y_c + 0.1 / K.
Yang, Zeng, Li, Zhang, Yuan and Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
Normalized Loss and Customized Soft Labels", ICCV 2023, https://arxiv.org/abs/2303.13005.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec

_EPS = 1e-6  # of the published implementation
_SMOOTHING = 0.1  # of the weak head's labels


def named(y: Tensor) -> tuple[Tensor, Tensor]:
    """Classes [N,L] that labels name, and their shares [N,L]: L is 1 for y [N] and 2 for mixed labels y [N,K]."""
    if y.ndim == 1:
        return y[:, None], torch.ones_like(y)[:, None]
    shares, classes = y.sort(dim=1, descending=True, stable=True)
    return classes[:, :2], shares[:, :2]


@torch.no_grad()
def target_weights(z: Tensor, y: Tensor) -> Tensor:
    """w [N,L] of logits [N,K] and labels [N], or [N,K] where they are mixed; the mean of one label's is 1."""
    classes, shares = named(y)
    squared = F.softmax(z, dim=1).gather(1, classes).square()
    return (squared + shares - squared.mean(dim=0)).masked_fill(shares == 0, 0.0)


@torch.no_grad()
def zipf_labels(z: Tensor, weak: Tensor, y: Tensor) -> Tensor:
    """u [N,K] of logits [N,K], the weak head's logits [N,K] and labels: sums to 1, is 0 at the labels.

    Of classes that score alike the first has the better rank. Where no class is left it is 0.
    """
    classes, _ = named(y)
    r, log_q = F.softmax(weak, dim=1), F.log_softmax(z, dim=1)
    known, log_known = r.gather(1, classes).sum(1, keepdim=True), log_q.gather(1, classes).sum(1, keepdim=True)
    score = r / (1 - known + _EPS) + log_q / (1 - log_known + _EPS)
    order = score.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(1, z.shape[1] + 1, device=z.device).expand_as(order)
    )
    u = ranks.to(z.dtype).reciprocal().scatter(1, classes, 0.0)
    return u / u.sum(dim=1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)


def unnamed_log_softmax(z: Tensor, y: Tensor) -> Tensor:
    """Log-probabilities [N,K] of the classes that the labels do not name, among themselves; 0 at those they do."""
    classes, _ = named(y)
    # Not -inf: where no class is left, the softmax of nothing must not be NaN.
    others = z.scatter(1, classes, torch.finfo(z.dtype).min)
    return F.log_softmax(others, dim=1).scatter(1, classes, 0.0)


class USKD(Method):
    ce_weight: float
    alpha: float
    beta: float
    mu: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        self.weak_head = nn.Linear(student.stages[-2][0], student.classes)

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = full(step.student.logits)
        y = step.y if step.y.ndim == 1 else step.y.to(z.dtype)
        weak = self.weak_head(full(step.student.stages[-2]).mean(dim=(2, 3)))
        target = -(target_weights(z, y) * F.log_softmax(z, dim=1).gather(1, named(y)[0])).sum(dim=1)
        others = -(zipf_labels(z, weak, y) * unnamed_log_softmax(z, y)).sum(dim=1)
        return {
            "ce": self.ce_weight * F.cross_entropy(z, y),
            "target": self.alpha * target.mean(),
            "others": self.beta * others.mean(),
            "weak": self.mu * F.cross_entropy(weak, y, label_smoothing=_SMOOTHING),
        }
