"""WKD-L: move the student's probability to where the teacher has it, at a cost that knows which classes are alike.

L = ce_weight * CE(y, softmax(z)) + mean_B [ -p_y log q_y ] + w(epoch) * weight * mean_B sum_ij F_ij C_ij,

with p = softmax(v) and q = softmax(z) at temperature 1, and w = 1 until epoch ``decay``, from there along a cosine to 0
in the last epoch. F is the entropic transport plan from the student's to the teacher's softmax at temperature T over
the classes that are not the label: ``iterations`` of Sinkhorn's algorithm with regularisation ``sinkhorn``, through all
of which the gradient flows. C_ij = 1 - exp(-sharpen * (1 - s_ij)), or 1 - s_ij where sharpen is 0, with the similarity
s of two classes: the linear CKA of the teacher's features of their training images (``cka``: last maps, whose positions
count as images; ``cka_logits``: logits), or the cosine of their rows in the teacher's classifier (``fc``). Even at
z = v the plan is not the identity, so neither the loss nor its gradient is 0 there.
Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS 2024,
https://arxiv.org/abs/2412.08139.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.linalg import matrix_norm
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, Sweep, full
from kdbench.methods.zoo.nkd import label_mask, target_cross_entropy
from kdbench.models.outputs import DataSpec, NetworkSpec, Outputs

_EPS = 1e-8  # of the published implementation, in the costs and in Sinkhorn's divisions
#: Numbers of features that CKA may hold at a time (2 GiB in float32). Where a data set has more, each class is compared
#: on its first images only, which makes unlike classes look a little more alike.
_ENTRIES = 2**29


def class_similarity(features: Tensor) -> Tensor:
    """Linear CKA [K,K] of the classes' features [K,M,D], the M samples paired in order; 0 with a constant class.

    Centres ``features`` in place, as they may be large.
    """
    features -= features.mean(dim=1, keepdim=True)
    own = torch.stack([matrix_norm(x.mT @ x) for x in features])
    similarity = torch.eye(len(features), dtype=features.dtype, device=features.device)
    varied = own.nonzero()[:, 0].tolist()
    for i, j in combinations(varied, 2):
        cross = matrix_norm(features[j].mT @ features[i])
        similarity[i, j] = similarity[j, i] = (cross / own[i]) * (cross / own[j])
    return similarity


def transport_cost(
    s: Tensor, t: Tensor, start: Tensor, costs: Tensor, regularisation: float, iterations: int
) -> Tensor:
    """sum_ij F_ij C_ij [N] between distributions s and t [N,K] at costs [K,K], from the scaling ``start`` [N,K].

    A class that has no part (the label) is 0 in s, t and start: it costs no tensor [N,K,K].
    """
    kernel = torch.exp(-costs / regularisation)
    u, w = start, t
    for _ in range(iterations):
        w = t / (u @ kernel + _EPS)
        u = s / (w @ kernel.mT + _EPS)
    return ((u @ (kernel * costs)) * w).sum(dim=1)


class WKDL(Method):
    ce_weight: float
    weight: float
    temperature: float
    sinkhorn: float
    iterations: int
    sharpen: float
    decay: float
    cost: str
    costs: Tensor

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        counts = torch.bincount(data.labels, minlength=data.classes)
        self.images = int(counts[counts > 0].min())  # of each class that has any: as many are compared
        similarity = torch.eye(data.classes)
        if self.cost == "fc":
            rows = getattr(teacher.head, "weight", None)
            if rows is None or rows.ndim != 2:
                raise UserError(f"wkd_l: {teacher.name} has no linear classifier to compare; choose another cost.")
            rows = F.normalize(full(rows.detach()))
            similarity = rows @ rows.T
        self.register_buffer("costs", self._costs(similarity))

    def _costs(self, similarity: Tensor) -> Tensor:
        distance = 1 - similarity
        if self.sharpen:
            distance = -torch.expm1(-self.sharpen * distance)
        return distance.relu() + _EPS

    def prepare(self, sweep: Sweep) -> None:
        """Replace the costs by those of the training images, taken in the order of their index."""
        if self.cost == "fc":
            return
        filled = [0] * len(self.costs)
        store: Tensor | None = None
        for outputs, labels, _ in sweep():
            features = self._features(outputs)
            if store is None:
                most = max(1, min(self.images, _ENTRIES // (len(filled) * features[0].numel())))
                store = features.new_zeros(len(filled), most, *features.shape[1:])
            for label in labels.unique().tolist():
                mine = features[labels == label][: store.shape[1] - filled[label]]
                store[label, filled[label] : filled[label] + len(mine)] = mine
                filled[label] += len(mine)
        if store is not None:
            fewest = min(count for count in filled if count)
            self.costs.copy_(self._costs(class_similarity(store[:, :fewest].flatten(1, 2))))

    def _features(self, outputs: Outputs) -> Tensor:
        """Features [N,P,D] of N images: P positions of D channels, or one of K logits."""
        if self.cost == "cka_logits":
            return full(outputs.logits)[:, None]
        return full(outputs.stages[-1]).flatten(2).mT

    def fading(self, step: Step) -> float:
        """w of this step's epoch."""
        start = self.decay * step.epochs / 240
        if step.epoch <= start:
            return 1.0
        return (1 + math.cos(math.pi * (step.epoch - start) / (step.epochs - start))) / 2

    def loss(self, step: Step) -> dict[str, Tensor]:
        z, v = full(step.student.logits), full(step.taught.logits).detach()
        label = label_mask(z, step.y)
        s, t = (F.softmax(logits.masked_fill(label, -torch.inf) / self.temperature, dim=1) for logits in (z, v))
        start = (~label).to(s.dtype) / max(z.shape[1] - 1, 1)
        moved = transport_cost(s, t, start, self.costs, self.sinkhorn, self.iterations)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "target": target_cross_entropy(z, v, step.y),
            "transport": self.fading(step) * self.weight * moved.mean(),
        }
