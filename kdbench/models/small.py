"""Networks for tests, tutorials and MNIST-like data. Initialised as torch does it, the convolutions by He's fan-out."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    ``dropout``: the shares of inputs and of hidden units that a training step leaves out. ``max_norm``: the longest
    that the weights into a hidden unit may be; longer ones are shortened before a training step (Hinton et al.,
    arXiv:1207.0580).
    """

    def __init__(
        self,
        classes: int,
        inputs: int,
        hidden: tuple[int, ...],
        dropout: tuple[float, float] = (0.0, 0.0),
        max_norm: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout, self.max_norm = dropout, max_norm
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *hidden)))
        self.fc = nn.Linear(hidden[-1], classes)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        x = self._left_out(x.flatten(1), self.dropout[0])
        if self.training and self.max_norm:
            self._shorten()
        for layer in self.hidden:
            pixel = taps.relu_stage(partial(finished, layer(x)[:, :, None, None], None))
            if layer is self.hidden[0]:
                taps.at_stem(pixel)
            x = pixel.flatten(1)
            if self.training and self.dropout[1]:
                x = self._left_out(x, self.dropout[1])
                pixel = x[:, :, None, None]
        return taps.outputs(pixel, self.fc)

    def _left_out(self, x: Tensor, share: float) -> Tensor:
        """``x`` with that ``share`` of it left out, in a training step."""
        return F.dropout(x, share) if self.training and share else x

    @torch.no_grad()
    def _shorten(self) -> None:
        """Bring the weights into each hidden unit down to ``max_norm``."""
        for layer in self.hidden:
            layer.weight.copy_(layer.weight.renorm(2, 0, self.max_norm))


def tiny_cnn(classes: int, image_shape: Shape, widths: tuple[int, ...], blocks: int) -> TinyCNN:
    return TinyCNN(classes, image_shape[0], widths, blocks)


def mlp(
    classes: int,
    image_shape: Shape,
    hidden: tuple[int, ...],
    dropout: tuple[float, float] = (0.0, 0.0),
    max_norm: float = 0.0,
) -> MLP:
    channels, height, width = image_shape
    return MLP(classes, channels * height * width, hidden, dropout, max_norm)
