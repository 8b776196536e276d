"""What it is all measured on, and whether float32 is float32 there."""

from __future__ import annotations

import os
import platform

import torch

from kdbench.train.device import numerics, set_up
from stages import Say, Setting

#: TF32 has 10 bits of fraction, float32 23; of sums of this many products they make errors of 3e-4 and 2e-7 or so.
SIDE = 512
EXACT = 1e-5


def run(setting: Setting, say: Say, until: float) -> None:
    device = set_up(setting.device, 1)
    facts = {name: value for name, value in numerics(device).items() if value}
    say("machine", cores=os.cpu_count(), python=platform.python_version(), **facts)
    if device.type == "cuda":
        free, memory = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        say("GPU", capability=f"{major}.{minor}", memory_bytes=memory, free_bytes=free)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator, dtype=torch.float64) for _ in range(2))
    images = torch.randn(8, 64, 16, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(64, 64, 3, 3, generator=generator, dtype=torch.float64)
    for name, work, operands in (
        ("matrix product", torch.mm, (a, b)),
        ("convolution", torch.nn.functional.conv2d, (images, weight)),
    ):
        exact = work(*operands)
        found = work(*(operand.float().to(device) for operand in operands)).cpu().double()
        error = float((found - exact).norm() / exact.norm())
        say(f"{name} in float32", relative_error=error, is_float32=error < EXACT)
