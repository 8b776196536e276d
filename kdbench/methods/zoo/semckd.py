"""SemCKD: each student stage learns from all of the teacher's, as much from each as attention says they have in common.

L = ce_weight * CE(y, softmax(z)) + kd_weight * T^2 KL(p_T || q_T)
    + weight / (B S) * sum_b sum_s sum_t a_bst mean ( r_st(F_bs) - F_bt )^2,   a_bs = softmax_t( q_bs . k_bt / soft ),

with r a projector for each of the S x T pairs of stages (1x1, 3x3, 1x1, twice the teacher's channels between), the
larger map averaged down to the smaller. q and k are two-layer networks with output of length one, of row b of the
stage's similarity matrix F F^T over the batch: they have as many inputs as the batch has images, so a batch of another
size has no loss. kd_weight and ce_weight are 1 in all of the authors' runs.
Chen, Mei, Zhang, Wang, Wang, Feng and Chen, "Cross-Layer Distillation with Semantic Calibration", AAAI 2021,
https://arxiv.org/abs/2012.03236.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.methods.stages import match_size
from kdbench.methods.zoo.kd import kd_loss
from kdbench.models.outputs import DataSpec, NetworkSpec

_FACTOR = 4  # a query has a quarter as many entries as the batch has images: SimKD 2b389c3, models/util.py


def _projector(inputs: int, outputs: int) -> nn.Sequential:
    middle = 2 * outputs
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, 1, bias=False),
    )


def _embedding(batch: int) -> nn.Sequential:
    width = max(1, batch // _FACTOR)
    return nn.Sequential(nn.Linear(batch, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _embed(embeddings: Iterable[nn.Module], stages: Iterable[Tensor]) -> Tensor:
    """Unit vectors [B,L,E] of L stages: each embedding of its stage's similarity matrix."""
    flat = [stage.flatten(1) for stage in stages]
    embedded = [embedding(maps @ maps.T) for embedding, maps in zip(embeddings, flat, strict=True)]
    return F.normalize(torch.stack(embedded, dim=1), dim=2)


def distances(projectors: nn.ModuleList, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared distance [B,S,T] of each sample's projected student stage and teacher stage."""
    rows = []
    for s, row in zip(student, projectors, strict=True):
        entries = []
        for t, projector in zip(teacher, row, strict=True):
            source, target = match_size(s, t)
            difference = projector(source) - target
            entries.append(difference.square().flatten(1).mean(dim=1))
        rows.append(torch.stack(entries, dim=1))
    return torch.stack(rows, dim=1)


class SemCKD(Method):
    ce_weight: float
    kd_weight: float
    weight: float
    temperature: float
    soft: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.queries = nn.ModuleList(_embedding(data.batch) for _ in student.stages)
        self.keys = nn.ModuleList(_embedding(data.batch) for _ in teacher.stages)
        self.projectors = nn.ModuleList(
            nn.ModuleList(_projector(s[0], t[0]) for t in teacher.stages) for s in student.stages
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        student = [full(stage) for stage in step.student.stages]
        teacher = [full(stage).detach() for stage in step.taught.stages]
        energy = _embed(self.queries, student) @ _embed(self.keys, teacher).mT
        attended = (energy / self.soft).softmax(dim=2) * distances(self.projectors, student, teacher)
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "kd": self.kd_weight * kd_loss(z, step.taught.logits, self.temperature),
            "feature": self.weight * attended.sum(dim=2).mean(),
        }
