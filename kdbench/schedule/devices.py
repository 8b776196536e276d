"""The devices of this machine, and the slots that a run gets on them. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from kdbench.errors import UserError, shown
from kdbench.plan.fleet import Device, Fleet

#: Workers that one machine can start and listen to.
MOST_SLOTS = 1024
#: Workers that share a GPU where nobody says how many: beyond that they take turns more than they share.
SHARING = 4


def find_fleet(device: str, slots: int | None, threads: int) -> Fleet:
    """This machine, for tasks of ``threads`` threads: ``device`` auto, cpu or cuda; ``slots`` None for all it has."""
    check_slots(slots)
    found = gpus() if device != "cpu" else ()
    if device == "cuda" and not found:
        _check_cuda()
    if device == "cpu" or (device == "auto" and not found):
        return Fleet("cpu", (Device(slots=slots or max(cores() // threads, 1)),))
    return dealt(found or (Device("0"),), slots)


def check_slots(slots: int | None) -> None:
    """UserError unless so many workers can be had."""
    if slots is not None and not 1 <= slots <= MOST_SLOTS:
        raise UserError(f"--slots must be at {'least 1' if slots < 1 else f'most {MOST_SLOTS}'}, not {shown(slots)}.")


def dealt(found: Sequence[Device], slots: int | None) -> Fleet:
    """A fleet of the GPUs ``found`` with ``slots`` dealt to them in turn; None: as many as share their memory well."""
    if slots is None:
        each = max(min(SHARING, cores() // len(found)), 1)
        return Fleet("cuda", tuple(replace(device, slots=each if device.memory else 1) for device in found))
    several = [slots // len(found) + (number < slots % len(found)) for number in range(len(found))]
    return Fleet("cuda", tuple(replace(d, slots=n) for d, n in zip(found, several, strict=True) if n))


def _check_cuda() -> None:
    """UserError where torch, too, sees no GPU: the driver's tool may be missing, or be another maker's.

    Torch is asked only where a driver is there, as it takes seconds to load.
    """
    if _has_driver():
        import torch

        if torch.cuda.is_available():
            return
    raise UserError("--device cuda: there is no CUDA device here; use --device cpu, or look at kdbench doctor.")


def _has_driver() -> bool:
    """Whether a driver is installed that torch could have GPUs from: NVIDIA's, or AMD's."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def gpus() -> tuple[Device, ...]:
    """The CUDA devices to use, with their memory: those made visible by the user, else all that nvidia-smi lists.

    Asked of the driver, as importing torch takes seconds that a no-op run does not have.
    """
    listed = [line for line in _driver("-L") if line.startswith("GPU ")]
    memory = [_mebibytes(line) for line in _driver("--query-gpu=memory.total", "--format=csv,noheader,nounits")]
    found = [Device(str(n), memory=memory[n] if n < len(memory) else None) for n in range(len(listed))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or visible is None:
        return tuple(found)
    names = [name.strip() for name in visible.split(",") if name.strip() and not name.strip().startswith("-")]
    # By number; by UUID, of which not the memory of parts (MIG) is known.
    return tuple(next((device for device in found if device.name == name), Device(name)) for name in names)


def _driver(*asked: str) -> list[str]:
    """The lines that nvidia-smi answers with; none where there is none, or it fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        run = subprocess.run(["nvidia-smi", *asked], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return run.stdout.splitlines() if run.returncode == 0 else []


def _mebibytes(line: str) -> float | None:
    """Bytes, from a number of MiB; None for a GPU that does not say."""
    return float(line) * 2**20 if line.strip().isdecimal() else None
