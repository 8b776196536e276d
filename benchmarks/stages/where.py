"""Where a step's time goes: what the GPU computes, and what it waits for, by torch's profiler.

And what convolutions cost as they lie: kdbench's channels are last in memory, and a GPU may like float32 otherwise.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from convolutions import channels_first
from engine import SUITE, Engine
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from kdbench.models.precision import native
from stages import Say, Setting
from stages.loops import convolutions, played

#: Steps that are watched, and kernels that are named.
STEPS, SHOWN = 4, 8


def run(setting: Setting, say: Say, until: float) -> None:
    for pair in setting.pairs():
        dataset = pair.dataset(Path())
        for students in (1, 2 if setting.tiny else 8):
            for graphs in [False, True] if setting.graphs else [False]:
                if time.monotonic() > until - 5:
                    return
                engine = Engine(pair, dataset, setting.device)
                cohort = engine.cohort(SUITE[:students], graphs=graphs)
                figures = _watched(setting, partial(engine.step, cohort))
                say(f"{pair.name}, {students} students{', graphs' * graphs}", **figures)
        for precision in ["float32", "bf16"] if native(torch.device(setting.device)) else ["float32"]:
            say(f"{pair.name}, convolutions, {precision}", **_laid_out(setting, pair, dataset, precision))


def _watched(setting: Setting, step: Callable[[], object]) -> dict[str, Any]:
    """Of a step: its time, that of the kernels in it, how many there are and how many launches, and what is longest."""
    for _ in range(3):
        step()
    whole = setting.seconds(step, STEPS)
    cuda = setting.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as seen:
        for _ in range(STEPS):
            step()
        setting.wait()
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    launches = 0
    for event in seen.key_averages():
        launches += event.count if event.key.startswith(("cudaLaunch", "cudaGraphLaunch", "cuLaunch")) else 0
        if event.device_type == wanted:
            seconds[event.key] += (_on_gpu(event) if cuda else event.self_cpu_time_total) / 1e6 / STEPS
            calls[event.key] += event.count / STEPS
    working = sum(seconds.values())
    return {
        "step_ms": 1000 * whole,
        "kernels_ms": 1000 * working,
        "without_kernels": max(0.0, 1 - working / whole),
        "kernels": round(sum(calls.values())),
        "launches": round(launches / STEPS),
        "longest": {name[:60]: f"{each / working:.0%}" for name, each in seconds.most_common(SHOWN)},
    }


def _on_gpu(event: Any) -> float:
    """Microseconds, under the name that this torch has for them."""
    return float(getattr(event, "self_device_time_total", None) or getattr(event, "self_cuda_time_total", 0.0))


def _laid_out(setting: Setting, pair: Any, dataset: Any, precision: str) -> dict[str, float]:
    """Milliseconds of the convolutions of a teacher's pass and of a student's step, in either layout."""
    found = {}
    for name, calls in zip(("teacher", "student"), convolutions(setting, pair, dataset, precision), strict=True):
        ways: dict[str, Sequence[Any]] = {"channels_last": calls, "channels_first": channels_first(calls)}
        for layout, each in ways.items():
            work = played(setting, each)
            work()
            found[f"{name}_{layout}_ms"] = 1000 * setting.seconds(work, STEPS)
    return found
