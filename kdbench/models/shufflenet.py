"""ShuffleNets for small images: V1 with three groups (arXiv:1707.01083) and V2 at width 1 (arXiv:1807.11164).

The stem is a 1x1 convolution of stride 1 without pooling. Parameter names and shapes are those of the RepDistiller and
mdistiller checkpoints; all weights start from torch's defaults, as there. A stage's last layer joins several branches,
so no single batch normalisation feeds its ReLU. V2's ``preacts`` are shuffled like its ``stages``, while the
repositories leave them unshuffled: here relu(preact) is the stage's map, channel by channel.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.models.body import Body, Taps
from kdbench.models.norms import finished, normalised
from kdbench.models.outputs import Outputs, Shape


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class UnitV1(nn.Module):
    """A unit of stride 2 appends the pooled input's channels to its own; without its last ReLU if so asked."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups_in: int, groups: int) -> None:
        super().__init__()
        width = outputs // 4
        self.stride, self.groups_in = stride, groups_in
        self.conv1, self.bn1 = _conv(inputs, width, 1, groups=groups_in), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride, groups=width), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1, groups=groups), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:
        out = F.channel_shuffle(normalised(self.bn1, self.conv1(x)), self.groups_in)
        out = self.conv3(normalised(self.bn2, self.conv2(out)))
        if self.stride == 1:
            return normalised(self.bn3, out, x, relu)
        out = normalised(self.bn3, out, relu=False)
        return finished(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1), None, relu)


class UnitV2(nn.Module):
    """Transforms one half of the channels and passes the other; without its last ReLU if so asked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(width, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, groups=width), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:
        kept, out = x.chunk(2, 1)
        out = normalised(self.bn1, self.conv1(out))
        out = self.bn2(self.conv2(out))
        return finished(F.channel_shuffle(torch.cat([kept, self.bn3(self.conv3(out))], 1), 2), None, relu)


class DownV2(nn.Module):
    """Halves the map and widens it to two branches of ``width`` channels each; without its last ReLU if so asked."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, inputs, 3, 2, groups=inputs), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv4, self.bn4 = _conv(width, width, 3, 2, groups=width), nn.BatchNorm2d(width)
        self.conv5, self.bn5 = _conv(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = normalised(self.bn3, self.conv3(x))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return finished(F.channel_shuffle(torch.cat([left, right], 1), 2), None, relu)


class ShuffleNet(Body):
    """The frame of both: stem, three stages of units, in V2 one more convolution, pooling, classifier."""

    head_name = "linear"

    def __init__(self, classes: int, channels: int, layers: list[nn.Sequential], stage: int, last: int | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, 24, 1), nn.BatchNorm2d(24)
        self.layer1, self.layer2, self.layer3 = layers
        self.conv2 = None if last is None else _conv(stage, last, 1)
        self.bn2 = None if last is None else nn.BatchNorm2d(last)
        self.linear = nn.Linear(last or stage, classes)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = taps.at_stem(normalised(self.bn1, self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3):
            *units, last = layer
            for unit in units:
                x = unit(x)
            x = taps.relu_stage(partial(last, x))
        if self.conv2 is not None and self.bn2 is not None:
            x = normalised(self.bn2, self.conv2(x))
        return taps.outputs(x, self.head)


def shufflenetv1(classes: int, image_shape: Shape) -> ShuffleNet:
    groups, inputs, layers = 3, 24, []
    for outputs, count in ((240, 4), (480, 8), (960, 4)):
        first = UnitV1(inputs, outputs - inputs, 2, 1 if inputs == 24 else groups, groups)
        layers.append(nn.Sequential(first, *(UnitV1(outputs, outputs, 1, groups, groups) for _ in range(count - 1))))
        inputs = outputs
    return ShuffleNet(classes, image_shape[0], layers, inputs, None)


def shufflenetv2(classes: int, image_shape: Shape) -> ShuffleNet:
    inputs, layers = 24, []
    for outputs, count in ((116, 4), (232, 8), (464, 4)):
        first = DownV2(inputs, outputs // 2)
        layers.append(nn.Sequential(first, *(UnitV2(outputs // 2) for _ in range(count - 1))))
        inputs = outputs
    return ShuffleNet(classes, image_shape[0], layers, inputs, 1024)
