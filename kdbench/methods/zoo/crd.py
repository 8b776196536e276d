"""CRD: tell each sample's own embedding from those of many others, across the two networks, by a memory of all samples.

L = ce_weight * CE(y, softmax(z)) + weight * [ N(s, M_t) + N(t, M_s) ],
N(e, M) = -1/B sum_i { log h(e_i, M_i) + sum_k log( 1 - h(e_i, M_k) ) },   h = p / (p + K/n),   p = e^(e.M/tau) / Z,

s and t linear embeddings of the pooled features scaled to length 1, both trained; M_s and M_t memories of one entry for
each of the n training images; K negatives k of other classes. Z is set once, on the first batch, to n times the mean
of e^(e.M/tau). After the loss the batch's entries become momentum * old + (1 - momentum) * new, scaled to length 1. As
published, 1e-7 guards the sum under h, and 1 - h is its rest, K/n / (p + K/n).
Negatives are drawn with replacement; the published loader draws them without, which is the same in the mean.
Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020, https://arxiv.org/abs/1910.10699.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec

_EPS = 1e-7


def contrast(scores: Tensor, log_z: Tensor, size: int) -> Tensor:
    """N of scores e.M/tau [N,1+K], the first of which is the positive, with a memory of ``size`` entries."""
    noise = (scores.shape[1] - 1) / size
    margin = scores - log_z - math.log(noise + _EPS)
    unlike = F.logsigmoid(-margin[:, 1:]) + math.log(noise / (noise + _EPS))
    return -(F.logsigmoid(margin[:, 0]).sum() + unlike.sum()) / len(scores)


class CRD(Method):
    ce_weight: float
    weight: float
    dim: int
    negatives: int
    temperature: float
    momentum: float
    memory_s: Tensor
    memory_t: Tensor
    log_z: Tensor
    labels: Tensor
    by_class: Tensor
    counts: Tensor

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        counts = torch.bincount(data.labels, minlength=data.classes)
        if counts.max() == data.train_size:
            raise UserError(f"crd: all training images of {data.name} are of one class, so there are no negatives.")
        self.embed_s = nn.Linear(student.pooled, self.dim)
        self.embed_t = nn.Linear(teacher.pooled, self.dim)
        bound = (3 / self.dim) ** 0.5
        for name in ("memory_s", "memory_t"):
            self.register_buffer(name, torch.empty(data.train_size, self.dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((2,), torch.nan))
        self.register_buffer("labels", data.labels, persistent=False)
        self.register_buffer("by_class", data.labels.argsort(stable=True), persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Places [N,K] of training images of other classes than those at ``index`` [N], uniform, with replacement."""
        label = self.labels[index][:, None]
        count, first = self.counts[label], (self.counts.cumsum(0) - self.counts)[label]
        uniform = torch.rand(len(index), self.negatives, generator=generator, device=index.device)
        rank = (uniform * (len(self.labels) - count)).long()
        return self.by_class[rank + count * (rank >= first)]  # sorted by class, its own class left out

    def scores(self, embeddings: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
        """e.M/tau [N,1+K] of embeddings [N,D] with the entries ``chosen``.

        Against all of the memory, which costs n scores a sample instead of K gathered vectors.
        """
        return (embeddings @ memory.mT).gather(1, chosen) / self.temperature

    @torch.no_grad()
    def remember(self, memory: Tensor, index: Tensor, embeddings: Tensor) -> Tensor:
        """The memory with ``embeddings`` mixed in at ``index``; new, as the loss's graph keeps the old one."""
        mixed = self.momentum * memory[index] + (1 - self.momentum) * embeddings
        return memory.index_copy(0, index, F.normalize(mixed))

    def embedded(self, step: Step) -> tuple[Tensor, Tensor]:
        """s and t [N,D] of length 1."""
        assert step.student.pooled is not None, "the card's needs list pooled"
        assert step.taught.pooled is not None, "the card's needs list pooled"
        student, teacher = full(step.student.pooled), full(step.taught.pooled).detach()
        return F.normalize(self.embed_s(student)), F.normalize(self.embed_t(teacher))

    def chosen(self, step: Step) -> Tensor:
        """Places [N,1+K] of each sample itself and of its negatives."""
        return torch.cat([step.index[:, None], self.draw(step.index, step.generator("negatives"))], dim=1)

    def compare(self, s: Tensor, t: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """N(s, M_t) and N(t, M_s); the first call sets Z."""
        sides = self.scores(s, self.memory_t, chosen), self.scores(t, self.memory_s, chosen)
        size = len(self.labels)
        with torch.no_grad():
            first = torch.stack([side.logsumexp((0, 1)) for side in sides]) + math.log(size / chosen.numel())
            self.log_z = torch.where(self.log_z.isnan(), first, self.log_z)
        return contrast(sides[0], self.log_z[0], size), contrast(sides[1], self.log_z[1], size)

    def update(self, index: Tensor, s: Tensor, t: Tensor) -> None:
        """Both memories, with the batch's embeddings mixed in."""
        self.memory_s = self.remember(self.memory_s, index, s)
        self.memory_t = self.remember(self.memory_t, index, t)

    def loss(self, step: Step) -> dict[str, Tensor]:
        s, t = self.embedded(step)
        student, teacher = self.compare(s, t, self.chosen(step))
        self.update(step.index, s, t)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "contrast": self.weight * (student + teacher),
        }
