"""What benchmarks/gpu.py does, a module a stage: each has ``run(setting, say, until)``.

``say(name, **figures)`` is a finding, kept at once, which takes the place of an earlier one of that name. ``until`` is
the time (time.monotonic) at which the stage is killed; one that can do less stops before that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

#: In this order, each with its share of the time that is left, against those of all that follow.
STAGES = {"machine": 3, "promises": 15, "methods": 12, "loops": 28, "where": 7, "memory": 5, "packing": 8, "board": 22}


class Say(Protocol):
    def __call__(self, name: str, **figures: Any) -> None: ...


@dataclass(frozen=True)
class Setting:
    """``tiny``: with the smallest networks, to try a stage where there is no GPU; nothing that it measures counts.

    ``data`` is a data root, or a folder that part.py has packed; ``work`` is a folder that nobody keeps, and what is
    found goes to ``out``.
    """

    device: str
    tiny: bool
    data: Path | None
    work: Path
    out: Path

    @property
    def log(self) -> Path:
        return self.out / "log.txt"

    @property
    def graphs(self) -> bool:
        """Whether there are CUDA graphs."""
        import torch

        from kdbench.train.graphs import capture_works

        return capture_works(torch.device(self.device))

    def pairs(self) -> list[Any]:
        """The pairs that are measured, on as many images as CIFAR-100's."""
        from pairs import PAIRS, Pair

        if self.tiny:
            return [Pair("tiny_cnn_l", "tiny_cnn_s", batch=4, batches=4)]
        return [replace(PAIRS[name], batches=782) for name in ("resnet56:resnet20", "resnet32x4:resnet8x4")]

    def wait(self) -> None:
        """For all that the GPU was told."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def clock(self) -> float:
        """Seconds by the clock on the wall, at a moment at which the device has nothing left to do."""
        self.wait()
        return time.perf_counter()

    def seconds(self, work: Callable[[], object], goes: int) -> float:
        """Of one of ``goes`` goes of ``work``."""
        began = self.clock()
        for _ in range(goes):
            work()
        return (self.clock() - began) / goes


def hurry() -> None:
    """Let what a record says of speed be measured in a moment, where nobody reads it."""
    from kdbench.measure import throughput
    from kdbench.train import pace

    throughput.BATCHES, throughput.ROUNDS, throughput.REFERENCE_BATCH, throughput.SHORTEST = (1,), 1, 1, 0.0
    throughput.LARGE, throughput.TRIES, pace.SECONDS = 0.0, 1, 0.0
