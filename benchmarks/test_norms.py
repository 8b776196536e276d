"""Batch normalisation with sum and ReLU, forward and backward: compiled, over torch's operators."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from report import Report
from torch import Tensor, nn

from kdbench.models.norms import compile_norms, normalised
from kdbench.train.device import set_up

ROUNDS = 50
#: Images, channels and side of maps of resnet20, resnet8x4 and resnet18.
SHAPES = ((64, 16, 32), (64, 32, 16), (64, 64, 8), (64, 64, 32), (64, 256, 8), (16, 64, 56), (16, 512, 7))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norms(report: Report, shape: tuple[int, int, int], kind: str) -> None:
    set_up("cpu", 1)
    images, channels, side = shape
    plain = nn.Sequential(nn.BatchNorm2d(channels))
    compiled = copy.deepcopy(plain)
    compile_norms(compiled)
    x, skip, slope = (_map((images, channels, side, side), getattr(torch, kind)) for _ in range(3))
    tasks: dict[str, Callable[[], object]] = {
        name: partial(_both_ways, network[0], x.requires_grad_(), skip.requires_grad_(), slope)
        for name, network in (("torch", plain), ("compiled", compiled))
    }
    report.ratios(tasks, ROUNDS)


def _map(shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    return torch.randn(shape).to(kind).contiguous(memory_format=torch.channels_last)


def _both_ways(norm: nn.Module, x: Tensor, skip: Tensor, slope: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype is torch.bfloat16):
        y = normalised(norm, x, skip)
    torch.autograd.grad(y, (x, skip, *norm.parameters()), slope)
