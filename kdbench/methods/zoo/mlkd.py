"""MLKD: KD at five temperatures, and agreement of samples with samples and of classes with classes, in two views.

L = ce_weight * [CE(y, z_w) + CE(y, z_s)]
  + weight * sum_T { m KL_T(v_w, z_w) + KL_T(v', z') + m |P_v P_v' - P_z P_z'|^2 / B + n |P_v' P_v - P_z' P_z|^2 / K },

T in {temperature, 3, 5, 2, 6}, KL_T = T^2 mean_B KL(softmax(v / T) || softmax(z / T)), P [B,K] the softmax of the weak
view's logits at T. m is the share of samples of which the teacher is at most as sure as of the median one, n the share
of classes that the batch shows at most as much of as of the median one: about 1/2 each. Jin, Wang and Lin, "Multi-Level
Logit Distillation", CVPR 2023, https://doi.org/10.1109/CVPR52729.2023.02325.

This is the authors' code as it computes: the masks multiply means and so act as the factors m and n; the second
divergence, meant for the strong view, compares the weak one's logits at T = 2 and 6; there are no correlations in the
strong view. It was published with 480 epochs, twice those of other methods.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.methods.base import Method, Step, full

#: The temperatures beside the hyper-parameter, and whether the strong view is compared at them.
OTHERS = ((3.0, True), (5.0, True), (2.0, False), (6.0, False))


def divergence(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    """T^2 mean_B KL(softmax(v / T) || softmax(z / T)) of logits [B,K]."""
    log_p, log_q = F.log_softmax(v / temperature, dim=1), F.log_softmax(z / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def correlation(p: Tensor, q: Tensor) -> Tensor:
    """Squared difference of the Gram matrices of the rows of ``p`` and ``q`` [n,m], over the number of rows.

    Where there are more rows than columns it is made from products of columns, which are fewer.
    """
    if len(p) <= p.shape[1]:
        return (p @ p.T - q @ q.T).square().sum() / len(p)
    within, between = (p.T @ p).square().sum() + (q.T @ q).square().sum(), (p.T @ q).square().sum()
    return (within - 2 * between) / len(p)


def share_below_median(x: Tensor) -> Tensor:
    """Share of the entries of ``x`` [n] that are at most its median (between the middle two where n is even)."""
    return (x <= x.quantile(0.5)).to(x.dtype).mean()


class MLKD(Method):
    ce_weight: float
    weight: float
    temperature: float

    def loss(self, step: Step) -> dict[str, Tensor]:
        strong = step.views["strong"]
        z, v = full(step.student.logits), full(step.taught.logits).detach()
        z_strong, v_strong = full(strong.student.logits), full(strong.taught.logits).detach()
        known = v.softmax(dim=1)
        samples, classes = share_below_median(known.amax(dim=1)), share_below_median(known.sum(dim=0))
        kd = batch = klass = torch.zeros((), device=z.device, dtype=z.dtype)
        for temperature, both in ((self.temperature, True), *OTHERS):
            p, q = (v / temperature).softmax(dim=1), (z / temperature).softmax(dim=1)
            kd = kd + samples * divergence(z, v, temperature)
            kd = kd + (divergence(z_strong, v_strong, temperature) if both else divergence(z, v, temperature))
            batch = batch + samples * correlation(p, q)
            klass = klass + classes * correlation(p.T, q.T)
        return {
            "ce": self.ce_weight * (step.cross_entropy(z) + step.cross_entropy(z_strong)),
            "kd": self.weight * kd,
            "batch": self.weight * batch,
            "class": self.weight * klass,
        }
