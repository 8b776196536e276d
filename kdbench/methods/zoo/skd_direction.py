"""SKD's direction term: match how the logits of a batch's samples point to one another, as their spread allows.

L = ce_weight * CE(y, softmax(z)) + weight * mean_B sqrt( d_b^T (C + tikhonov I)^-1 d_b ),

with d_b row b of the difference of the two networks' matrices of cosines between the logits of the batch's samples, and
C the covariance of these rows over the batch, from which their mean is taken off, as it is not from d_b. The gradient
passes through C. This is the term as torchdistill has it; the authors' code divides d by the number of classes. The
logits are not centred, so a constant in all of a sample's counts, and the term does not tell which class is which: it
goes with KD.
Jeong, Lee and Choi, "Streamlined Knowledge Distillation", CVPR 2026,
https://openaccess.thecvf.com/content/CVPR2026/papers/Jeong_Streamlined_Knowledge_Distillation_CVPR_2026_paper.pdf.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import cholesky_ex, solve_triangular, vector_norm
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full


def cosines(logits: Tensor) -> Tensor:
    """Cosines [N,N] between the samples' logits [N,K]."""
    unit = F.normalize(full(logits))
    return unit @ unit.mT


def mahalanobis(rows: Tensor, tikhonov: float) -> Tensor:
    """Length [N] of each of ``rows`` [N,D] by their regularised covariance; without a gradient where it is 0."""
    ridge = torch.tensor(tikhonov, dtype=torch.float32)  # as published, in whatever precision the rest is
    covariance = torch.cov(rows.mT) + ridge * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    factor, failed = cholesky_ex(covariance)
    factor = torch.where(failed == 0, factor, torch.nan)  # rows that are not finite end as a loss that is not
    return vector_norm(solve_triangular(factor, rows.mT, upper=False), dim=0)


def direction_loss(z: Tensor, v: Tensor, tikhonov: float) -> Tensor:
    """Mean Mahalanobis length of the rows of the difference of logits' [N,K] cosines; no gradient to ``v``."""
    with torch.no_grad():
        target = cosines(v)
    return mahalanobis(cosines(z) - target, tikhonov).mean()


class SKDDirection(Method):
    ce_weight: float
    weight: float
    tikhonov: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        z = step.student.logits
        return {
            "ce": self.ce_weight * step.cross_entropy(z),
            "direction": self.weight * direction_loss(z, step.taught.logits, self.tikhonov),
        }
