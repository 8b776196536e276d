"""MobileNets: V1 for ImageNet (arXiv:1704.04861) and the half-width V2 of the CIFAR pairs (arXiv:1801.04381).

Parameter names and shapes are those of the mdistiller (V1) and RepDistiller/mdistiller (V2, "mobile_half") checkpoints.
V1 starts from torch's defaults; in V2 convolutions start from a normal distribution of deviation
sqrt(2 / (k * k * output channels)) and the classifier from one of 0.01. V2 halves the image in its stem, and its
activations are ReLU, not ReLU6, as in those repositories.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdbench.models.body import Body, Taps, init_fan_out, through
from kdbench.models.outputs import Outputs, Shape


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class MobileNetV1(Body):
    """A stem and 13 depthwise separable convolutions; a stage ends before each halving of the map after the first."""

    _WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    _STRIDED = (2, 4, 6, 12)
    _STAGE_ENDS = (3, 5, 11, 13)

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Sequential(*_conv(channels, self._WIDTHS[0], 3, 2)))
        for number in range(1, len(self._WIDTHS)):
            inputs, outputs = self._WIDTHS[number - 1 : number + 1]
            depthwise = _conv(inputs, inputs, 3, 2 if number in self._STRIDED else 1, groups=inputs)
            self.model.append(nn.Sequential(*depthwise, *_conv(inputs, outputs, 1)))
        self.fc = nn.Linear(self._WIDTHS[-1], classes)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        stem, *blocks = self.model
        x = taps.at_stem(through(stem, x))
        for number, block in enumerate(blocks, start=1):
            made = partial(through, block, x, None)
            x = taps.relu_stage(made) if number in self._STAGE_ENDS else made()
        return taps.outputs(x, self.head)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        return tuple([*self.model[number].children()][-2] for number in self._STAGE_ENDS)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.identity = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *_conv(inputs, width, 1), *_conv(width, width, 3, stride, groups=width), *_conv(width, outputs, 1)[:-1]
        )

    def forward(self, x: Tensor) -> Tensor:
        return through(self.conv, x, x if self.identity else None, relu=False)


class MobileNetV2(Body):
    """Half the paper's width. Its stages end linearly: ``stages`` and ``preacts`` are the same maps, as published."""

    head_name = "classifier.0"
    _GROUPS = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
    _STAGE_ENDS = (1, 2, 4, 6)

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_conv(channels, 16, 3, 2))
        self.blocks = nn.ModuleList()
        inputs = 16
        for expansion, outputs, count, stride in self._GROUPS:
            group = nn.Sequential(InvertedResidual(inputs, outputs, stride, expansion))
            group.extend(InvertedResidual(outputs, outputs, 1, expansion) for _ in range(count - 1))
            self.blocks.append(group)
            inputs = outputs
        self.conv2 = nn.Sequential(*_conv(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Linear(1280, classes))
        init_fan_out(self, head_std=0.01)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = taps.at_stem(through(self.conv1, x))
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in self._STAGE_ENDS:
                taps.linear_stage(x)
        return taps.outputs(through(self.conv2, x), self.head)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        return tuple([*self.blocks[number].modules()][-1] for number in self._STAGE_ENDS)


def mobilenetv1(classes: int, image_shape: Shape) -> MobileNetV1:
    return MobileNetV1(classes, image_shape[0])


def mobilenetv2(classes: int, image_shape: Shape) -> MobileNetV2:
    return MobileNetV2(classes, image_shape[0])
