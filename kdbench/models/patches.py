"""The networks of Allen-Zhu and Li (arXiv:2012.09816, sections 3 and 4): one layer on patches, added up.

F_i(x) = sum over filters r of class i and patches p of act(<w_ir, x_p>); a patch is a row of the image, through all of
its channels. The activation is their smoothed ReLU with q = 3 and a threshold of 1:
act(z) = 0 for z <= 0, z^3 / 3 up to 1, and z - 2/3 from there on. The output layer only adds, and is not trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.models.body import Body, Taps
from kdbench.models.outputs import Outputs, Shape


def smoothed_relu(z: Tensor) -> Tensor:
    c = z.clamp(0, 1)
    return c * c * c / 3 + (z - 1).clamp(min=0)


def smoothed_relu_slope(z: Tensor) -> Tensor:
    """The derivative of ``smoothed_relu`` at ``z``."""
    return z.clamp(0, 1) ** 2


class PatchNet(Body):
    """``filters`` a class. As the mean of ``members`` such networks that are trained as one, it has those of all.

    The map of its one stage, which is the stem too, is that of all filters after the activation, [N,F,patches,1]. The
    sum over patches is their average times their number, which stands in the output layer.
    """

    def __init__(self, classes: int, image_shape: Shape, filters: int, std: float, members: int = 1) -> None:
        super().__init__()
        channels, patches, pixels = image_shape
        count = filters * members
        self.conv = nn.Conv2d(channels, classes * count, (1, pixels), bias=False)
        nn.init.normal_(self.conv.weight, std=std)
        self.fc = nn.Linear(classes * count, classes, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(classes).repeat_interleave(count, 1) * (patches / members))
        self.fc.weight.requires_grad_(False)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        return taps.outputs(taps.at_stem(taps.linear_stage(self.maps(x))), self.fc)

    def maps(self, x: Tensor) -> Tensor:
        """What each filter says of each patch, after the activation."""
        return smoothed_relu(self.conv(x))


class RandomFeatures(PatchNet):
    """The filters stay as they are drawn, and the output layer is trained: a linear model on random features.

    It reads all of them for each class, and starts from zero.
    """

    def __init__(self, classes: int, image_shape: Shape, filters: int, std: float) -> None:
        super().__init__(classes, image_shape, filters, std)
        self.conv.weight.requires_grad_(False)
        self.fc = nn.Linear(classes * filters, classes, bias=False)
        nn.init.zeros_(self.fc.weight)


class Linearised(PatchNet):
    """PatchNet's tangent at the weights it starts from: f0(x) + <grad f0(x), change>, where the change is trained.

    The neural tangent kernel's model of finite width (Jacot et al., arXiv:1806.07572).
    """

    def __init__(self, classes: int, image_shape: Shape, filters: int, std: float) -> None:
        super().__init__(classes, image_shape, filters, std)
        self.conv.weight.requires_grad_(False)
        self.change = nn.Conv2d(image_shape[0], classes * filters, (1, image_shape[2]), bias=False)
        nn.init.zeros_(self.change.weight)

    def maps(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return smoothed_relu(z) + smoothed_relu_slope(z) * self.change(x)
