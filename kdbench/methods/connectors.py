"""Connectors: what leads a student's map [N,C_s,H,W] into the space of the teacher's, [N,C_t,H,W]."""

from __future__ import annotations

from torch import nn

from kdbench.errors import UserError
from kdbench.models.outputs import NetworkSpec


def connector(kind: str, inputs: int, outputs: int, factor: int, where: str) -> nn.Sequential:
    """The connector ``kind``, from ``inputs`` to ``outputs`` channels; UserError, begun by ``where``, if it has none.

    ``bottleneck``: SimKD's, 1x1 down to ``outputs`` / ``factor`` channels, 3x3, 1x1 up. ``1x1``: one convolution.
    ``mlp``: two, so that each position goes through a network of one hidden layer. Each convolution is followed by
    batch norm and ReLU. ``none``: the map as it is, where the channels are as many.
    """
    if kind == "bottleneck":
        middle = outputs // factor
        return nn.Sequential(*_block(inputs, middle, 1), *_block(middle, middle, 3), *_block(middle, outputs, 1))
    if kind == "1x1":
        return nn.Sequential(*_block(inputs, outputs, 1))
    if kind == "mlp":
        return nn.Sequential(*_block(inputs, outputs, 1), *_block(outputs, outputs, 1))
    if inputs != outputs:
        raise UserError(
            f"{where}: without a connector the maps must be of equal width, and they have {inputs} and {outputs} "
            "channels; choose another connector."
        )
    return nn.Sequential()


def check_factor(method: str, factor: int, teacher: NetworkSpec, channels: int) -> None:
    """UserError where the bottleneck of ``method`` would have no channels left of the teacher's."""
    if channels < factor:
        raise UserError(f"{method}: factor {factor} leaves none of {teacher.name}'s {channels} channels; lower it.")


def _block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
