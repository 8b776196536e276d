"""RRD: the student shall be as similar to each of the last K samples of a queue as the teacher is.

L = ce_weight * CE(y, softmax(z)) - weight * mean_i sum_k softmax(t_i.Q_k / tau_t) log softmax(s_i.Q_k / tau_s),

s and t linear embeddings of the pooled features scaled to length 1, Q the queue of the teacher's embeddings, which this
batch joins first. As in the authors' code the teacher's embedding is never trained, a random projection, and the
queue's first entries are random, normalised over the entries.
Giakoumoglou and Stathaki, "Relational Representation Distillation", 2024, https://arxiv.org/abs/2407.12073.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec


class RRD(Method):
    ce_weight: float
    weight: float
    dim: int
    entries: int
    student_temperature: float
    teacher_temperature: float
    queue: Tensor
    oldest: Tensor

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.embed_s = nn.Linear(student.pooled, self.dim)
        self.embed_t = nn.Linear(teacher.pooled, self.dim).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(self.entries, self.dim), dim=0))
        self.register_buffer("oldest", torch.tensor(0))

    def enqueue(self, embeddings: Tensor) -> None:
        """Put embeddings [N,D] in the place of the queue's oldest, the last K of them where there are more."""
        embeddings = embeddings[-self.entries :]
        places = (self.oldest + torch.arange(len(embeddings), device=self.oldest.device)) % self.entries
        # A new tensor: the graph of a loss whose backward pass is yet to come keeps the old one.
        self.queue = self.queue.index_copy(0, places, embeddings)
        self.oldest = (self.oldest + len(embeddings)) % self.entries

    def loss(self, step: Step) -> dict[str, Tensor]:
        assert step.student.pooled is not None, "the card's needs list pooled"
        assert step.taught.pooled is not None, "the card's needs list pooled"
        with torch.no_grad():
            t = F.normalize(self.embed_t(full(step.taught.pooled)))
            self.enqueue(t)
            target = F.softmax(t @ self.queue.mT / self.teacher_temperature, dim=1)
        s = F.normalize(self.embed_s(full(step.student.pooled)))
        relation = F.cross_entropy(s @ self.queue.mT / self.student_temperature, target)
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "relation": self.weight * relation,
        }
