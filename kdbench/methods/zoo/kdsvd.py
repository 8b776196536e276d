"""KD-SVD: match how the leading singular vectors of neighbouring stages' maps relate.

L = ce_weight * CE(y, softmax(z)) + weight * sum_l 1/B sum ( R(V_s^l, V_s^(l-1)) - R(V_t^l, V_t^(l-1)) )^2,
R(A, B)_ijk = exp( -(A_ik - B_jk)^2 / 8 ),

V_t the k leading right singular vectors of a map as a matrix [C H, W], as mdistiller reshapes it (RepDistiller's
[C, H W] needs equal channel counts), times the singular values scaled to length 1; V_s those of the student's k + 3
leading vectors that lie closest to the teacher's, with their sign, times the teacher's singular values. The signs of
singular vectors are open: here the teacher's entries have a sum of 0 or more. Of two sizes the larger map is averaged
to the smaller.
Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
https://arxiv.org/abs/1807.06819.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step
from kdbench.methods.stages import check_paired, match_size
from kdbench.models.outputs import DataSpec, NetworkSpec

_CANDIDATES = 3  # of the student's vectors beyond k
_GAP = 1e-5  # of the largest squared singular value: vectors closer than this share their gradient's direction


def singular_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors [N,W,k] and values [N,k] of maps [N,C,H,W] as [C H,W], k = min(count, W).

    They are the eigenvectors of the W x W Gram matrix; the gradient is first-order perturbation theory, its poles at
    equal singular values smoothed.
    """
    matrix = maps.flatten(1, 2)
    gram = matrix.mT @ matrix
    frozen = gram.detach()
    # A map that is not finite must make the loss NaN, not the decomposition fail.
    values, vectors = torch.linalg.eigh(frozen.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    gap = values[:, None, :] - values[:, :, None]
    smallest = (_GAP * values[:, -1, None, None]).square() + torch.finfo(gap.dtype).tiny
    change = gap / (gap.square() + smallest) * (vectors.mT @ (gram - frozen) @ vectors)
    vectors = vectors + vectors @ change
    return vectors.flip(2)[:, :, :count], values.flip(1)[:, :count].clamp_min(0).sqrt()


def align(candidates: Tensor, targets: Tensor) -> Tensor:
    """For each of ``targets`` [N,W,k] the vector of ``candidates`` [N,W,m] with the largest |cosine|, sign turned."""
    cosine = candidates.mT @ targets
    best = cosine.abs().argmax(dim=1, keepdim=True)
    sign = cosine.gather(1, best).sign()
    return candidates.gather(2, best.expand(-1, candidates.shape[1], -1)) * sign


def relation(vectors: Tensor, before: Tensor) -> Tensor:
    """Gaussian kernel [N,W,W',k] between the entries of vectors [N,W,k] and of the stage before, [N,W',k]."""
    return (-(vectors[:, :, None] - before[:, None]).square() / 8).exp()


def singular_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], k: int) -> Tensor:
    """Sum over neighbouring stages, mean over samples, of the gap of the relations; no gradient to ``teacher``."""
    aligned, targets = [], []
    for s, t in zip(student, teacher, strict=True):
        s, t = match_size(s, t.detach())
        v_t, values = singular_vectors(t, k)
        v_t = v_t * torch.where(v_t.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        scale = F.normalize(values)[:, None]
        aligned.append(align(singular_vectors(s, k + _CANDIDATES)[0], v_t) * scale)
        targets.append(v_t * scale)
    gaps = [
        (relation(aligned[i], aligned[i - 1]) - relation(targets[i], targets[i - 1])).square().sum()
        for i in range(1, len(targets))
    ]
    return torch.stack(gaps).sum() / len(student[0])


class KDSVD(Method):
    ce_weight: float
    weight: float
    k: int

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_paired("kdsvd", student, teacher)

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "singular": self.weight * singular_loss(step.student.stages, step.taught.stages, self.k),
        }
