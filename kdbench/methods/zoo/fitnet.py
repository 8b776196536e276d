"""FitNet: a regressor on a middle map of the student imitates the teacher's map, the hint.

L = ce_weight * CE(y, softmax(z)) + weight * mean ( r(F_s) - F_t )^2,   r = convolution, batch norm, ReLU,

with F_s and F_t the maps after stage ``hint_layer`` (the stem counts as 0), trained jointly from the first epoch, as
mdistiller and RepDistiller do; the paper trains the lower layers on the hint first.
Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015,
https://arxiv.org/abs/1412.6550.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.models.outputs import DataSpec, NetworkSpec, Shape


def regressor(student: Shape, teacher: Shape) -> nn.Sequential:
    """Convolution, batch norm and ReLU from maps of shape ``student`` to ``teacher``; UserError where none fits.

    Half the size is reached by a 3x3 convolution of stride 2, twice the size by a transposed 4x4 one, any other smaller
    or equal size by an unpadded convolution that takes off the difference: 1x1 for equal sizes.
    """
    (c_s, h_s, w_s), (c_t, h_t, w_t) = student, teacher
    if (h_s, w_s) == (2 * h_t, 2 * w_t):
        conv: nn.Module = nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    elif (2 * h_s, 2 * w_s) == (h_t, w_t):
        conv = nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    elif h_s >= h_t and w_s >= w_t:
        conv = nn.Conv2d(c_s, c_t, (1 + h_s - h_t, 1 + w_s - w_t))
    else:
        raise UserError(
            f"fitnet: no regressor leads from the student's {h_s}x{w_s} map to the teacher's {h_t}x{w_t}; "
            "choose another hint_layer."
        )
    return nn.Sequential(conv, nn.BatchNorm2d(c_t), nn.ReLU())


def _hint(network: NetworkSpec, layer: int) -> Shape:
    if layer > len(network.stages):
        raise UserError(f"fitnet: {network.name} has {len(network.stages)} stages; hint_layer {layer} is beyond them.")
    return network.stages[layer - 1]


class FitNet(Method):
    ce_weight: float
    weight: float
    hint_layer: int

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        self.regressor = regressor(_hint(student, self.hint_layer), _hint(teacher, self.hint_layer))

    def loss(self, step: Step) -> dict[str, Tensor]:
        layer = self.hint_layer - 1
        imitation = self.regressor(full(step.student.stages[layer]))
        return {
            "ce": self.ce_weight * step.cross_entropy(step.student.logits),
            "hint": self.weight * F.mse_loss(imitation, full(step.taught.stages[layer]).detach()),
        }
