"""Wide residual networks (Zagoruyko & Komodakis, arXiv:1605.07146), pre-activation, without dropout.

Parameter names and shapes are those of the RepDistiller and mdistiller checkpoints. Convolutions start from a normal
distribution of deviation sqrt(2 / (k * k * output channels)), the classifier's bias from 0, its weights from torch's
default.

A stage's last ReLU is the one that opens the next stage (for the last stage, the one before pooling). So ``preacts``
are what the batch normalisation before that ReLU puts out, as in both repositories, and ``stages`` are the maps after
it; the repositories' ``feats`` of these networks are instead the raw sums before both, which no ReLU has seen. The stem
likewise ends with the first block's ReLU.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

from torch import Tensor, nn

from kdbench.models.body import Body, Taps, init_fan_out
from kdbench.models.norms import normalised
from kdbench.models.outputs import Outputs, Shape


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3, 1)
        self.convShortcut = None if inputs == outputs else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """``active`` is relu(bn1(x)); where the width changes the shortcut, too, starts from it."""
        residual = self.conv2(normalised(self.bn2, self.conv1(active)))
        return residual.add_(x if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    def __init__(self, count: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = Block(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(count - 1)))


class WideResNet(Body):
    def __init__(self, classes: int, channels: int, depth: int, widen: int) -> None:
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = _conv(channels, 16, 3, 1)
        self.block1 = Group(count, 16, 16 * widen, 1)
        self.block2 = Group(count, 16 * widen, 32 * widen, 2)
        self.block3 = Group(count, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, classes)
        init_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = self.conv1(x)
        for number, group in enumerate((self.block1, self.block2, self.block3)):
            first, *others = cast("Iterable[Block]", group.layer)
            opening = partial(normalised, first.bn1, x, None)
            x = first(x, taps.relu_stage(opening) if number else taps.at_stem(opening()))
            for block in others:
                x = block(x, normalised(block.bn1, x))
        return taps.outputs(taps.relu_stage(partial(normalised, self.bn1, x, None)), self.head)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        openings = (self.get_submodule(f"block{number}.layer.0.bn1") for number in (2, 3))
        return *openings, self.bn1


def wrn(classes: int, image_shape: Shape, depth: int, widen: int) -> WideResNet:
    """WRN-depth-widen; depth is 6n + 4."""
    return WideResNet(classes, image_shape[0], depth, widen)
