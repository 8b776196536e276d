"""CAT-KD: match the class activation maps, what each class's weights see at each place of the map they pool.

L = ce_weight * CE(y, softmax(z)) + weight * mean ( n(a_r(W_s F_s)) - n(a_r(W_t F_t)) )^2,

the mean over samples, classes and positions, with W F the classifier's weights, without its bias, applied at every
position, a_r the average pooling to r x r = ``resolution``, and n the division by the L2 norm over positions, where
``normalise`` asks for it. The authors train students whose classifier is a convolution without a bias; ours keep it for
cross-entropy, so that the student stays the same in all methods.
Guo, Yan, Li and Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023,
https://arxiv.org/abs/2304.12777.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Step
from kdbench.methods.heads import check_pooled_map, on_map, pooled_map, teacher_head
from kdbench.methods.stages import shrink
from kdbench.models.outputs import DataSpec, NetworkSpec

#: A norm, in units of the maps' precision, under which a normalised map fades to zero instead of turning into noise.
_ROUNDING = 1000


def activation_maps(head: nn.Module, maps: Tensor, resolution: int) -> Tensor:
    """Class activation maps [N,K,r,r] of maps [N,C,H,W]; pooled first, which a linear classifier cannot tell."""
    bias = head(maps.new_zeros(1, maps.shape[1]))[:, :, None, None]
    return on_map(head, shrink(maps, (resolution, resolution))) - bias


class CATKD(Method):
    ce_weight: float
    weight: float
    resolution: int
    normalise: bool

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        for network in (student, teacher):
            check_pooled_map("cat_kd", network)
        self.heads = (student.head,)  # in a tuple: its parameters are the student's, not this method's

    def _maps(self, head: nn.Module, maps: Tensor) -> Tensor:
        found = activation_maps(head, maps, self.resolution)
        if not self.normalise:
            return found
        eps = _ROUNDING * torch.finfo(found.dtype).eps
        return F.normalize(found, dim=(2, 3), eps=eps)  # type: ignore[arg-type]

    def loss(self, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self._maps(teacher_head(step), pooled_map(step.taught))
        found = self._maps(self.heads[0], pooled_map(step.student))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "cat": self.weight * F.mse_loss(found, target),
        }
