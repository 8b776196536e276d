"""RKD: match the distances between pairs and the angles within triplets of pooled features.

L = ce_weight * CE(y, softmax(z)) + distance_weight * mean_ij h(d_ij^s - d_ij^t)
    + angle_weight * mean_ijk h(a_ijk^s - a_ijk^t),

with h the smooth L1 loss, d_ij = ||e_i - e_j|| over its mean for i != j, and a_ijk the cosine of the angle at e_i
between e_j and e_k. Both depend on the batch size; as in mdistiller the outer means run over all N^2 and N^3 entries,
the zero ones of a sample with itself included.
Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019, https://arxiv.org/abs/1904.05068.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kdbench.methods.base import Method, Step, full

_SMALLEST = 1e-6  # a distance, under which two features count as one
_AT_ONCE = 2**23  # entries of the largest tensor of all angles, above which they are taken in turns
_TURN = 2**20  # entries of the largest tensor of one turn


def relative_distances(e: Tensor) -> Tensor:
    """Pairwise distances [N,N] of features [N,D] over the mean of those between different samples."""
    n = len(e)
    same = torch.eye(n, dtype=torch.bool, device=e.device)
    # Differences, not the Gram matrix: for features that lie close together that one cancels to nothing in float32.
    d = torch.cdist(e, e, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(_SMALLEST).masked_fill(same, 0.0)
    return d / (d.sum() / max(n * (n - 1), 1)).clamp_min(_SMALLEST)


def angles(e: Tensor, rows: Tensor) -> Tensor:
    """Cosines [R,N,N] of the angles at features ``rows`` [R,D] between every two of the features ``e`` [N,D]."""
    edges = e[None] - rows[:, None]
    length = vector_norm(edges, dim=2, keepdim=True)
    edges = edges / torch.where(length > _SMALLEST**2, length, 1.0)
    return edges @ edges.mT


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D of pooled features [N,D_s] and [N,D_t]; no gradient to ``teacher``."""
    with torch.no_grad():
        target = relative_distances(full(teacher))
    return F.smooth_l1_loss(relative_distances(full(student)), target)


def angle_loss(student: Tensor, teacher: Tensor, at_once: int = _AT_ONCE, turn: int = _TURN) -> Tensor:
    """RKD-A of pooled features [N,D_s] and [N,D_t]; no gradient to ``teacher``.

    Where that takes a tensor of more than ``at_once`` entries, the rows are taken in turns of at most ``turn``, and
    recomputed in the backward pass: memory stays bounded while the full tensor grows with N^3.
    """
    student, teacher = full(student), full(teacher).detach()
    n = len(student)

    def part(e: Tensor, s: Tensor, t: Tensor) -> Tensor:
        # torch's own sum is a scalar that keeps a storage of R N^2 entries until the backward pass.
        return F.smooth_l1_loss(angles(e, s), angles(teacher, t), reduction="none").sum()

    row = n * max(n, student.shape[1], teacher.shape[1])
    if n * row <= at_once:
        return part(student, student, teacher) / n**3
    rows = max(1, turn // row)
    turns = zip(torch.split(student, rows), torch.split(teacher, rows), strict=True)
    parts = [checkpoint(part, student, s, t, use_reentrant=False, preserve_rng_state=False) for s, t in turns]
    return torch.stack(parts).sum() / n**3


class RKD(Method):
    ce_weight: float
    distance_weight: float
    angle_weight: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        student, teacher = step.student.pooled, step.taught.pooled
        assert student is not None, "the card's needs list pooled"
        assert teacher is not None, "the card's needs list pooled"
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "distance": self.distance_weight * distance_loss(student, teacher),
            "angle": self.angle_weight * angle_loss(student, teacher),
        }
