"""``python -m kdbench.train.speed DEVICE PRECISION COMPILE THREADS``: a few steps of a small network, timed.

It prints a JSON object: ``gflops`` a second of a training's arithmetic, and the seconds of each ``step`` beside it.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from kdbench.measure.cost import flops
from kdbench.models.factory import create
from kdbench.models.facts import TRAINING
from kdbench.models.outputs import Shape
from kdbench.models.precision import in_precision
from kdbench.train.compiling import compiled
from kdbench.train.device import set_up
from kdbench.train.optimiser import SGD

#: A network as those that most trials train, and a batch of it and of images that are hardly any work.
NETWORK, SHAPE, BATCH = "resnet20", (3, 32, 32), 64
NOTHING, TINY = "tiny_cnn_s", (3, 8, 8)
#: Seconds of steps that are timed of each, and how many at least.
SECONDS = 0.5
STEPS = 3


def probe(device: torch.device, precision: str, compile: str) -> dict[str, float]:
    """The speed of ``device`` as a plan uses it. What torch would compile is timed uncompiled: that takes minutes."""
    compile = compile if compile == "norms" else "none"
    step, _ = _timed(NOTHING, TINY, device, precision, compile)
    whole, work = _timed(NETWORK, SHAPE, device, precision, compile)
    return {"gflops": work / max(whole - step, whole / 10) / 1e9, "step": step}


def _timed(name: str, shape: Shape, device: torch.device, precision: str, compile: str) -> tuple[float, float]:
    """Seconds of a training step of ``name`` on BATCH images of ``shape``, and the operations in it."""
    start = torch.Generator().get_state()
    network = create(name, classes=100, image_shape=shape, mean=(0.5,) * 3, std=(0.25,) * 3, seed_state=start)
    network.to(device, memory_format=torch.channels_last)
    work = TRAINING * BATCH * flops(network, shape)
    see = compiled(in_precision(network, precision), compile)
    network.train()
    optimiser = SGD(network.parameters(), 0.01, momentum=0.9)
    x = torch.rand(BATCH, *shape, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(BATCH, dtype=torch.int64, device=device)
    _step(see, optimiser, x, y)
    taken: list[float] = []
    while len(taken) < STEPS or sum(taken) < SECONDS:
        began = time.perf_counter()
        _step(see, optimiser, x, y)
        taken.append(time.perf_counter() - began)
    return min(taken), work  # what else the machine does just now is not for the whole of a training


def _step(see: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    F.cross_entropy(see(x).logits.float(), y).backward()
    optimiser.step()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


if __name__ == "__main__":
    _device, _precision, _compile, _threads = sys.argv[1:]
    json.dump(probe(set_up(_device, int(_threads)), _precision, _compile), sys.stdout)
