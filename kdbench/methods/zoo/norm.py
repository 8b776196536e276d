"""NORM: the map that the student pools, expanded to N copies of the teacher's, is pulled to all of them at once.

L = ce_weight * CE(y, softmax(z')) + s(epoch) weight * N mean ( E(F_s) - [F_t, ..., F_t] )^2,

with F_s the map that the student's classifier pools, F_t the teacher's last stage and E a 1x1 convolution and batch
norm to N = ``copies`` times the teacher's channels. A second such layer C leads back, and z' is the student's
classifier on the average of F_s + C(E(F_s)), layer-normalised over the classes and multiplied by ``logit_scale``. Of
the two maps the larger is max-pooled to the smaller. s is .1 before epoch 10, .5 before 20, 1 before 180, .5 before 210
and .1 after (``cifar``), or .1, .5, .9, .5, .1 with steps at 5, 15, 60 and 80 of 100 (``imagenet``). All that was added
is linear, so the deployed network has it folded into the classifier and is no larger than the student; its logits are
z'. The authors put E and C before the last batch norm and ReLU of wide residual networks, and leave out MobileNetV2's
ReLUs outside its blocks; here E and C always follow the last ReLU, else they could not be folded, and no student is
changed. Their variant with plain KD is not part of it.
Liu, Li, Li and Yao, "NORM: Knowledge Distillation via N-to-One Representation Matching", ICLR 2023,
https://arxiv.org/abs/2305.13803.
"""

from __future__ import annotations

import bisect
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.methods.base import Method, Step, full
from kdbench.methods.heads import Average, Deployed, check_pooled_map, pooled_map
from kdbench.models.body import average
from kdbench.models.outputs import DataSpec, NetworkSpec

_EPSILON = 1e-7  # of the layer normalisation: NORM c6dfc39
#: Epochs of 240 at which the weight changes, and its values: NORM c6dfc39, helper/loops.py.
SCHEDULES = {
    "cifar": ((10, 20, 180, 210), (0.1, 0.5, 1.0, 0.5, 0.1)),
    "imagenet": ((12, 36, 144, 192), (0.1, 0.5, 0.9, 0.5, 0.1)),
}


class Rescale(nn.Module):
    """Logits [N,K], normalised over the classes, times ``scale``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, logits: Tensor) -> Tensor:
        return self.scale * F.layer_norm(logits, logits.shape[1:], eps=_EPSILON)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def fold(expand: nn.Module, contract: nn.Module, head: nn.Module, width: int) -> nn.Linear:
    """The one linear layer that does to pooled features [N,width] what x + contract(expand(x)) and ``head`` do."""
    expand, contract, head = (copy.deepcopy(module).double().eval() for module in (expand, contract, head))
    device = next(expand.parameters()).device
    with torch.no_grad():
        points = torch.cat([torch.zeros(1, width), torch.eye(width)]).to(device, torch.float64)
        pixels = points[:, :, None, None]
        values: Tensor = head((pixels + contract(expand(pixels))).flatten(1))
        linear = nn.Linear(width, values.shape[1], device=device)
        linear.weight.copy_((values[1:] - values[0]).T)
        linear.bias.copy_(values[0])
    return linear


class NORM(Method):
    ce_weight: float
    weight: float
    copies: int
    logit_scale: float
    schedule: str

    def setup(self, student: NetworkSpec, teacher: NetworkSpec | None, data: DataSpec) -> None:
        assert teacher is not None, "the card's needs list the teacher"
        check_pooled_map("norm", student)
        (c_s, *size_s), (c_t, *size_t) = student.pooled_map, teacher.stages[-1]
        if any(max(s, t) % min(s, t) for s, t in zip(size_s, size_t, strict=True)):
            raise UserError(
                f"norm: the last maps of {student.name} and {teacher.name} are {size_s[0]}x{size_s[1]} and "
                f"{size_t[0]}x{size_t[1]}; choose a pair whose sizes divide."
            )
        self.expand, self.contract = _layer(c_s, self.copies * c_t), _layer(self.copies * c_t, c_s)
        self.rescale = Rescale(self.logit_scale)
        self.heads = (student.head,)  # in a tuple: its parameters are the student's, not this method's

    def _scale(self, step: Step) -> float:
        ends, scales = SCHEDULES[self.schedule]
        return scales[bisect.bisect([end * step.epochs / 240 for end in ends], step.epoch - 1)]

    def loss(self, step: Step) -> dict[str, Tensor]:
        maps, target = pooled_map(step.student), full(step.taught.stages[-1]).detach()
        expanded = self.expand(maps)
        logits = self.rescale(self.heads[0](average(maps + self.contract(expanded))))
        size = [min(s, t) for s, t in zip(maps.shape[2:], target.shape[2:], strict=True)]
        expanded, target = _max_pool(expanded, size), _max_pool(target, size)
        distance = F.mse_loss(expanded, target.repeat(1, self.copies, 1, 1))
        return {
            "ce": self.ce_weight * step.cross_entropy(logits),
            "norm": self._scale(step) * self.weight * self.copies * distance,
        }

    def deployed(self, student: nn.Module) -> nn.Module:
        head = self.heads[0]
        folded = fold(self.expand, self.contract, head, self.expand[0].in_channels)
        return Deployed(student, head, nn.Sequential(Average(), folded, self.rescale))


def _max_pool(maps: Tensor, size: list[int]) -> Tensor:
    window = (maps.shape[2] // size[0], maps.shape[3] // size[1])
    return maps if window == (1, 1) else F.max_pool2d(maps, window)
