"""Networks for tests, tutorials and MNIST-like data. Initialised as torch does it, the convolutions by He's fan-out."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from kdbench.models.body import Body, Taps, init_fan_out, through
from kdbench.models.norms import finished
from kdbench.models.outputs import Outputs, Shape


def _conv_bn(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class TinyCNN(Body):
    """A stem and a stage of ``blocks`` convolutions for each of ``widths``; all stages but the first halve the map."""

    def __init__(self, classes: int, channels: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.stem = _conv_bn(channels, widths[0], 1)
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for number, width in enumerate(widths):
            stage = [_conv_bn(inputs, width, 1 if number == 0 else 2)]
            stage += [_conv_bn(width, width, 1) for _ in range(blocks - 1)]
            self.stages.append(nn.ModuleList(stage))
            inputs = width
        self.fc = nn.Linear(inputs, classes)
        init_fan_out(self)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = taps.at_stem(through(self.stem, x))
        for stage in self.stages:
            *blocks, last = stage.children()
            for block in blocks:
                x = through(block, x)
            x = taps.relu_stage(partial(through, last, x, None))
        return taps.outputs(x, self.fc)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        return tuple([*stage.modules()][-1] for stage in self.stages)


class MLP(Body):
    """Fully connected layers on the flattened image (the MNIST networks of Hinton et al., arXiv:1503.02531, section 3).

    Each hidden layer counts as a stage whose map is one pixel, [N,D,1,1]; the first of them is the stem, too.
    """

    def __init__(self, classes: int, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *hidden)))
        self.fc = nn.Linear(hidden[-1], classes)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = x.flatten(1)
        for layer in self.hidden:
            pixel = taps.relu_stage(partial(finished, layer(x)[:, :, None, None], None))
            if layer is self.hidden[0]:
                taps.at_stem(pixel)
            x = pixel.flatten(1)
        return taps.outputs(pixel, self.fc)


def tiny_cnn(classes: int, image_shape: Shape, widths: tuple[int, ...], blocks: int) -> TinyCNN:
    return TinyCNN(classes, image_shape[0], widths, blocks)


def mlp(classes: int, image_shape: Shape, hidden: tuple[int, ...]) -> MLP:
    channels, height, width = image_shape
    return MLP(classes, channels * height * width, hidden)
