"""How many students a process has memory for: a cohort is cut to what fits, measured on the machine it trains on."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from kdbench.models.precision import in_precision
from kdbench.train.batches import Batch
from kdbench.train.member import Member

#: Of the memory that is free, what is planned with: the rest is for what no plan foresees.
SHARE = 0.8


class Room:
    """Memory for the members of a cohort, of which ``cores`` are stepped at a time."""

    def __init__(self, free: int | None, cores: int) -> None:
        self.free, self.cores = free, cores
        self._activations = 0
        self._state = 0

    def for_another(self) -> bool:
        """Whether one more like the last that was added fits; the first always does."""
        return self.free is None or self._state + self._activations * self.cores <= self.free

    def add(self, member: Member, batch: Batch) -> None:
        """Count ``member`` in."""
        if self.free is None:
            return
        self._activations = self._activations or activation_bytes(member, batch)
        self._state = state_bytes(member)
        self.free -= self._state


def state_bytes(member: Member) -> int:
    """Bytes that a student holds between its steps: weights, gradients and momenta, statistics and other buffers."""
    trained = [p for part in (member.network, member.method) for p in part.parameters() if p.requires_grad]
    held = [t for part in (member.network, member.method) for t in (*part.parameters(), *part.buffers())]
    return sum(map(_bytes, held)) + 2 * sum(map(_bytes, trained))


def activation_bytes(member: Member, batch: Batch) -> int:
    """Bytes that the student keeps for its backward pass, each storage counted once; ``member`` stays as it is."""
    network = in_precision(copy.deepcopy(member.network), member.trial.protocol.precision).train()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(batch.x, member.parts)
    del outputs
    return sum(kept.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def free_memory(device: torch.device, share: float) -> int | None:
    """Bytes that a worker may plan with, which has ``share`` of the device; None where that cannot be told."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for its next tensor
        return int((torch.cuda.mem_get_info(device)[0] + kept) * SHARE * share)
    found = [amount for amount in (_available(), _allowed()) if amount is not None]
    return int(min(found) * SHARE * share) if found else None


def _available() -> int | None:
    """What Linux says is available."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _allowed() -> int | None:
    """What the container leaves, where it sets a limit."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return int(limit) - int(used)
    except (OSError, ValueError):
        return None
