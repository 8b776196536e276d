"""The devices of this machine, and the slots that a run gets on them. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from kdbench.errors import UserError, shown
from kdbench.plan.plan import Machine

#: Workers that one machine can start and listen to.
MOST_SLOTS = 1024


def find_machine(device: str, slots: int | None, threads: int) -> Machine:
    """This machine, for tasks of ``threads`` threads: ``device`` auto, cpu or cuda; ``slots`` None for all it has."""
    if slots is not None and not 1 <= slots <= MOST_SLOTS:
        raise UserError(f"--slots must be at {'least 1' if slots < 1 else f'most {MOST_SLOTS}'}, not {shown(slots)}.")
    found = gpus() if device != "cpu" else ()
    if device == "cuda" and not found:
        _check_cuda()
    if device == "cpu" or (device == "auto" and not found):
        return Machine("cpu", slots or max(cores() // threads, 1))
    return Machine("cuda", slots or max(len(found), 1), found or ("0",))


def _check_cuda() -> None:
    """UserError where torch, too, sees no GPU: the driver's tool may be missing, or be another maker's."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu, or look at kdbench doctor.")


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def gpus() -> tuple[str, ...]:
    """The CUDA devices to use: those made visible by the user, else all that nvidia-smi lists.

    Asked of the driver, as importing torch takes seconds that a no-op run does not have.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()
    count = sum(line.startswith("GPU ") for line in run.stdout.splitlines()) if run.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count or visible is None:
        return tuple(str(number) for number in range(count))
    return tuple(name.strip() for name in visible.split(",") if name.strip() and not name.strip().startswith("-"))
