"""FT: an autoencoder paraphrases the teacher's last map; the student's, translated, imitates the paraphrase.

First phase:  L = mean ( decode(encode(F_t)) - F_t )^2, which trains the paraphraser alone;
main training: L = ce_weight * CE(y, softmax(z)) + weight * mean | Q(translate(F_s)) - Q(encode(F_t)) |,

with F the last stage's maps, encode, decode and translate three 3x3 convolutions with leaky ReLUs each (batch norm in
the translator, with 1e-3 added to its variance where RepDistiller has 1e-5), the factors share * C_t channels wide, and
Q a factor's mean of squares over channels as a vector of length 1 over positions, as RepDistiller computes it; the
paper compares whole factors. The first phase lasts 30 epochs of 240. Of two sizes the larger factor is averaged to the
smaller.
Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018,
https://arxiv.org/abs/1802.04977.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.methods.base import Method, Phase, Step, full
from kdbench.methods.stages import match_size
from kdbench.models.outputs import DataSpec, NetworkSpec

_SLOPE = 0.1  # of the leaky ReLUs
# Larger than torch's 1e-5 and 1e-12: three layers of batch norm would blow the rounding of a map that is the same
# everywhere up to a factor, and its direction would get a gradient without bound.
_BATCH_NORM_EPS = 1e-3
_ROUNDING = 8  # length of a factor's squares, in units of their precision


def convolutions(*widths: int, transposed: bool = False, batch_norm: bool = False) -> nn.Sequential:
    """3x3 convolutions from each of ``widths`` to the next, all with a leaky ReLU; maps keep their size."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(kind(before, after, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after, eps=_BATCH_NORM_EPS))
        layers.append(nn.LeakyReLU(_SLOPE))
    return nn.Sequential(*layers)


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the factors' Q, of factors [N,C_s,H,W] and [N,C_t,H,W]."""
    squares = (factor.square().mean(dim=1).flatten(1) for factor in match_size(student, teacher))
    return F.l1_loss(*(F.normalize(square, eps=_ROUNDING * torch.finfo(square.dtype).eps) for square in squares))


class FT(Method):
    ce_weight: float
    weight: float
    share: float
    paraphraser_rate: float

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        c_s, c_t = student.stages[-1][0], teacher.stages[-1][0]
        factors = max(1, int(self.share * c_t))
        self.encoder = convolutions(c_t, c_t, factors, factors)
        self.decoder = convolutions(factors, factors, c_t, c_t, transposed=True)
        self.translator = convolutions(c_s, c_s, factors, factors, batch_norm=True)

    def phases(self) -> Sequence[Phase]:
        return (Phase("paraphraser", 30, self.paraphrase, student=False, rate=self.paraphraser_rate),)

    def paraphrase(self, step: Step) -> dict[str, Tensor]:
        """The loss of the first phase."""
        maps = full(step.taught.stages[-1]).detach()
        return {"paraphrase": F.mse_loss(self.decoder(self.encoder(maps)), maps)}

    def loss(self, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self.encoder(full(step.taught.stages[-1]))
        factor = self.translator(full(step.student.stages[-1]))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "factor": self.weight * factor_loss(factor, target),
        }
