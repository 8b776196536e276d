"""The device a worker trains on, set up so that equal keys give equal bits, and what of it goes on the record."""

from __future__ import annotations

import ctypes
import platform
import warnings
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import DataError, UserError, out_of_memory
from kdbench.train.global_state import PastMending, establish

#: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of glibc's malloc.h, with what they are set to, in bytes.
_KEPT = {-1: 2**31 - 1, -2: 64 * 2**20, -3: 2**30}


def nobodys(error: BaseException) -> bool:
    """Whether ``error`` is no fault of the trial that meets it.

    A file that is damaged, a GPU that fails from here on, a process that is past mending or is to end, memory that is
    shared with others and ran out.
    """
    return isinstance(error, (DataError, torch.AcceleratorError, PastMending, KeyboardInterrupt)) or out_of_memory(
        error
    )


def set_up(name: str, threads: int) -> torch.device:
    """Set whatever torch's numbers depend on: deterministic algorithms, ``threads`` threads inside an operation.

    UserError where there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu, or look at kdbench doctor.")
    device = torch.device(name)
    if name == "cpu":
        _keep_freed_memory()
    warnings.filterwarnings("ignore", message=".*given NumPy array is not writable.*")
    establish(device, threads)
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep what a step has freed for the next one; other C libraries are left as they are.

    It would give large blocks back to the system, which clears each page anew when a step asks for it. The activations
    of images of 224 x 224 are such blocks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, size in _KEPT.items():
            mallopt(option, size)


def numerics(device: torch.device) -> dict[str, Any]:
    """What a result depends on although nobody plans it."""
    if device.type == "cuda":
        return {
            "torch": str(torch.__version__),
            "device": "cuda",
            "device_name": torch.cuda.get_device_name(device),
            "driver": f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
            "isa": torch.backends.cpu.get_cpu_capability(),
        }
    return {
        "torch": str(torch.__version__),
        "device": "cpu",
        "device_name": _processor(),
        "driver": None,
        "isa": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
