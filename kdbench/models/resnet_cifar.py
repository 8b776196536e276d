"""Residual networks for small images (He et al., arXiv:1512.03385), in the two forms of published KD teachers.

``resnet`` has three stages, 1x1-convolution shortcuts ("option B") named ``downsample`` and a classifier ``fc``;
``resnet_four_stages`` is the ImageNet layout on a 3x3 stride-1 stem, with ``shortcut`` and ``linear``. Parameter names
and shapes are those of the RepDistiller and mdistiller checkpoints. Convolutions start from He's normal distribution by
fan-out, batch normalisation from 1 and 0, the classifier from torch's default, as in those repositories.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdbench.models.body import Body, Taps, init_fan_out
from kdbench.models.norms import normalised
from kdbench.models.outputs import Outputs, Shape


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block: [N,inputs,H,W] to [N,width*expansion,H/stride,W/stride]; without its last ReLU if so asked."""

    expansion: int
    skip: str | None = None

    def _add_skip(self, name: str, inputs: int, outputs: int, stride: int) -> None:
        if stride != 1 or inputs != outputs:
            self.skip = name
            self.add_module(name, nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))

    def _identity(self, x: Tensor) -> Tensor:
        return x if self.skip is None else getattr(self, self.skip)(x)


class Basic(Block):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, skip: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self._add_skip(skip, inputs, width, stride)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:
        residual = self.conv2(normalised(self.bn1, self.conv1(x)))
        return normalised(self.bn2, residual, self._identity(x), relu)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2


class Bottleneck(Block):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, skip: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, width * 4, 1), nn.BatchNorm2d(width * 4)
        self._add_skip(skip, inputs, width * 4, stride)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:
        residual = normalised(self.bn1, self.conv1(x))
        residual = normalised(self.bn2, self.conv2(residual))
        return normalised(self.bn3, self.conv3(residual), self._identity(x), relu)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3


class ResNet(Body):
    """``widths``: of the stem, then of each stage; ``counts``: the blocks of each stage."""

    def __init__(
        self,
        classes: int,
        channels: int,
        block: type[Basic] | type[Bottleneck],
        widths: tuple[int, ...],
        counts: tuple[int, ...],
        skip: str,
        head_name: str,
    ) -> None:
        super().__init__()
        self.head_name = head_name
        self.conv1, self.bn1 = _conv(channels, widths[0], 3), nn.BatchNorm2d(widths[0])
        self.layers: tuple[str, ...] = ()
        inputs = widths[0]
        for number, (width, count) in enumerate(zip(widths[1:], counts, strict=True), start=1):
            blocks = []
            for position in range(count):
                blocks.append(block(inputs, width, 2 if number > 1 and position == 0 else 1, skip))
                inputs = width * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.layers += (f"layer{number}",)
        self.add_module(head_name, nn.Linear(inputs, classes))
        init_fan_out(self)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = taps.at_stem(normalised(self.bn1, self.conv1(x)))
        for name in self.layers:
            *blocks, last = getattr(self, name)
            for block in blocks:
                x = block(x)
            x = taps.relu_stage(partial(last, x))
        return taps.outputs(x, self.head)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        return tuple(getattr(self, name)[-1].last_norm for name in self.layers)


def resnet(classes: int, image_shape: Shape, depth: int, wide: bool = False) -> ResNet:
    """The CIFAR network of 6n + 2 layers; ``wide`` is the "x4" form, of 32 channels in the stem, then 64 to 256."""
    widths = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    return ResNet(classes, image_shape[0], Basic, widths, ((depth - 2) // 6,) * 3, "downsample", "fc")


def resnet_four_stages(classes: int, image_shape: Shape, depth: int) -> ResNet:
    """ResNet-18 or ResNet-50 without the stem's stride and pooling."""
    block: type[Basic] | type[Bottleneck] = Basic if depth == 18 else Bottleneck
    counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    return ResNet(classes, image_shape[0], block, (64, 64, 128, 256, 512), counts, "shortcut", "linear")
