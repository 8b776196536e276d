"""How many students a process has memory for: a cohort is cut to what fits, measured on the machine it trains on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from kdbench.errors import NotApplicable, described, out_of_memory
from kdbench.methods import METHODS
from kdbench.models.outputs import PARTS
from kdbench.models.precision import in_precision
from kdbench.train.batches import Batches
from kdbench.train.device import nobodys
from kdbench.train.member import Member
from kdbench.train.taught import Taught, teach
from kdbench.trials.trial import Trial

#: Of the memory that is free, what is planned with: the rest is for what no plan foresees.
SHARE = 0.8
#: Where a container's limits are, where it has any.
CONTAINER = Path("/sys/fs/cgroup")
#: What a container's use counts of files that were read, and that the system takes back when memory is wanted.
CACHED = ("inactive_file ", "active_file ")
#: Images that activations are measured on, where their number is in proportion to the batch.
PROBE = 8


class Room:
    """Memory for the members of a cohort, of which ``cores`` are stepped at a time."""

    def __init__(self, free: int | None, cores: int) -> None:
        self.free, self.cores = free, cores
        self._activations = 0
        self._state = 0

    def for_another(self) -> bool:
        """Whether one more like the last that was added fits; the first always does."""
        return self.free is None or not self._state or self._state + self._activations * self.cores <= self.free

    def add(self, member: Member, probe: Probe) -> None:
        """Count ``member`` in. One that cannot be measured counts as much as the largest before it."""
        if self.free is None:
            return
        try:
            self._activations = max(self._activations, probe.activation_bytes(member))
        except BaseException as error:  # other people's code; if it is at fault, its first step will say so
            if out_of_memory(error):
                self.free = 0
            elif nobodys(error):
                raise
            print(f"{member.trial.title}: a step on a copy failed: {described(error)}", file=sys.stderr)
        if not self._state:  # and the student that sets the pace, who is no member
            self.free -= state_bytes(member)
        self._state = state_bytes(member)
        self.free -= self._state


def state_bytes(member: Member) -> int:
    """Bytes that a student holds between its steps: weights, gradients and momenta, statistics and other buffers."""
    parts = (member.network, member.method)
    trained = {id(p): p for part in parts for p in part.parameters() if p.requires_grad}
    teacher = () if member.own_teacher is None else (member.own_teacher,)
    held = {id(t): t for part in (*parts, *teacher) for t in (*part.parameters(), *part.buffers())}
    return sum(map(_bytes, held.values())) + 2 * sum(map(_bytes, trained.values()))


class Probe:
    """A first step of every member, for what it keeps; nobody's numbers change, as copies take it.

    ``teacher`` is not compiled, as few images are shown to it, and once.
    """

    def __init__(self, trials: Sequence[Trial], batches: Batches, teacher: nn.Module | None) -> None:
        methods = [METHODS.get(trial.method) for trial in trials]
        taught = [method for method in methods if method.needs_teacher]
        parts = frozenset[str]().union(*(method.needs & PARTS for method in taught))
        whole = batches.batch(0, sorted({name for method in methods for name in method.views}))
        self.size = len(whole.y)
        few = max(PROBE, *(2 * method.applies.min_batch for method in methods))
        self.batch = whole.first(self.size if any(method.applies.full_batch for method in methods) else few)
        views = {name for method in taught for name in method.views}
        self.taught = None if teacher is None or not taught else self._teach(teacher, parts, views)

    def _teach(self, teacher: nn.Module, parts: frozenset[str], views: set[str]) -> Taught:
        """What ``teacher`` says of the batch; where it makes no maps it shows none, and its pupils will tell."""
        try:
            return teach(teacher, self.batch, parts, views)
        except NotApplicable:
            return teach(teacher, self.batch, parts & {"pooled"}, views)

    def activation_bytes(self, member: Member) -> int:
        """Bytes that a step of ``member`` keeps for its backward pass.

        What is in proportion to the batch is told from what is not, such as weights, by half of the images.
        """
        seen = len(self.batch.y)
        if seen == self.size:
            return self._kept(member, seen)
        half = self._kept(member, seen // 2)
        an_image = (self._kept(member, seen) - half) / (seen - seen // 2)
        return int(half + an_image * (self.size - seen // 2))

    def _kept(self, member: Member, images: int) -> int:
        alone = copy.copy(member)
        alone.network, alone.method = copy.deepcopy((member.network, member.method))
        alone.see, alone.position = in_precision(alone.network, member.trial.protocol.precision), 0
        batch, taught = self.batch.first(images), self.taught
        if taught is not None:
            taught = taught.map(lambda outputs: outputs.split(images)[0])
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), kept_for_backward() as kept:
            outputs, views = alone.forward(batch)
            terms = alone.method.loss(alone.make_step(batch, outputs, taught, None, views))
        del outputs, views, terms
        return sum(kept.values())


@contextmanager
def kept_for_backward() -> Iterator[Mapping[int, int]]:
    """The bytes of each storage, by its address, that the block's forward passes keep for their backward passes."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


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
        limit, used, stat = (
            (CONTAINER / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current", "stat")
        )
        files = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith(CACHED))
        return int(limit) - int(used) + files
    except (OSError, ValueError):
        return None
