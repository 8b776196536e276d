"""VGG with batch normalisation and one fully connected layer, for small images (Simonyan & Zisserman, arXiv:1409.1556).

Parameter names and shapes are those of the RepDistiller and mdistiller checkpoints; vgg8 is their own short form.
Convolutions start from a normal distribution of deviation sqrt(2 / (k * k * output channels)), the classifier from one
of 0.01, biases from 0.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.models.body import Body, Taps, init_fan_out, through
from kdbench.models.outputs import Outputs, Shape

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _block(inputs: int, width: int, count: int) -> nn.Sequential:
    """``count`` convolutions up to, not including, the last ReLU."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers[:-1])


class VGG(Body):
    """Five blocks, the first of which is the stem, with max pooling before the next ``pools`` ones."""

    head_name = "classifier"
    blocks = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, classes: int, channels: int, counts: tuple[int, ...], pools: int) -> None:
        super().__init__()
        self.pools = pools
        inputs = channels
        for name, width, count in zip(self.blocks, _WIDTHS, counts, strict=True):
            self.add_module(name, _block(inputs, width, count))
            inputs = width
        self.classifier = nn.Linear(inputs, classes)
        init_fan_out(self, head_std=0.01)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        taps = Taps(parts)
        stem, *blocks = (getattr(self, name) for name in self.blocks)
        x = taps.at_stem(through(stem, x))
        for number, block in enumerate(blocks):
            if number < self.pools:
                x = F.max_pool2d(x, 2)
            x = taps.relu_stage(partial(through, block, x, None))
        return taps.outputs(x, self.head)

    @property
    def stage_norms(self) -> tuple[nn.Module, ...]:
        return tuple(getattr(self, name)[-1] for name in self.blocks[1:])


def vgg(classes: int, image_shape: Shape, depth: int) -> VGG:
    """VGG-depth; as published, images of 64 px are pooled once more than others."""
    return VGG(classes, image_shape[0], _CONVOLUTIONS[depth], pools=4 if image_shape[1] == 64 else 3)
