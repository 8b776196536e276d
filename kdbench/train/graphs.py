"""Steps as CUDA graphs: what a GPU was told kernel by kernel once, it is told again by a single launch.

A step of a small network is hundreds of kernels of microseconds each, and Python needs longer to launch them than a GPU
to run them. A graph runs the same kernels on the same memory, so its bits are those of the step that it was captured
from; benchmarks/gpu.py asks a GPU whether that holds. What cannot be captured is done as ever: a step that draws random
numbers, reads a number back, or leaves something in Python that the next one reads.

No plan asks for it yet (Task.graphs): it has not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from kdbench.errors import described
from kdbench.methods.base import Step, View
from kdbench.models.outputs import Outputs
from kdbench.train.batches import Batch
from kdbench.train.crew import self_contained
from kdbench.train.member import Member
from kdbench.train.optimiser import SGD
from kdbench.train.scoring import Figures
from kdbench.train.taught import Taught

T = TypeVar("T")
#: What a pass is shown, and asked for.
Kind = tuple[torch.Size, frozenset[str]]


def capture_works(device: torch.device) -> bool:
    """Whether ``device`` has such graphs."""
    return device.type == "cuda"


class Recording(Generic[T]):
    """``work`` captured, which does nothing yet; ``replay`` does it, on the tensors that it was captured with.

    RuntimeError where it cannot be captured.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        here = torch.cuda.current_stream()
        aside = None if here == torch.cuda.default_stream() else here  # nothing is captured on the default stream
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=aside):
            self._result = work()

    def replay(self) -> T:
        """What ``work`` gave, computed anew; the next replay writes over it."""
        self._graph.replay()
        return self._result


class ReplayedNetwork(nn.Module):
    """A frozen ``network`` whose forward pass is replayed from the second time on that it is shown a shape."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: teach() puts all modules of a teacher into eval mode at each step
        self._seen: set[Kind] = set()
        self._recordings: dict[Kind, tuple[Tensor, Recording[Outputs]] | None] = {}

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        kind = x.shape, parts
        if kind in self._seen and kind not in self._recordings:
            self._recordings[kind] = self._recorded(x.clone(), parts)
        self._seen.add(kind)
        found = self._recordings.get(kind)
        if found is None:
            return self._plain(x, parts)
        still, recording = found
        still.copy_(x)
        return recording.replay()

    def _plain(self, x: Tensor, parts: frozenset[str]) -> Outputs:
        outputs: Outputs = self._network[0].eval()(x, parts)
        return outputs

    def _recorded(self, still: Tensor, parts: frozenset[str]) -> tuple[Tensor, Recording[Outputs]] | None:
        """None where it cannot be captured."""
        try:
            return still, Recording(partial(self._plain, still, parts))
        except RuntimeError:
            return None


class _Scored(ReplayedNetwork):
    """A student as it is scored: in eval mode for as long as this is. Replays see its weights as they are by then."""

    def train(self, mode: bool = True) -> _Scored:
        self._network[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        return super().forward(x, parts).map(torch.clone)


class ReplayedMember(Member):
    """A student whose steps on whole batches are replayed, and its passes where it is scored.

    The first such step is taken as ever, and what its method looks at is noted; the second is captured.
    ``unrepeatable`` says why none is: empty where they are, None as long as nobody knows.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.unrepeatable: str | None = None
        self._asked: set[str] = set()
        self._recording: Recording[Figures] | None = None
        self._epoch = 0
        self._inputs: list[Tensor] = []
        self._rates: list[Tensor] = []
        self._scored = _Scored(self.network)

    def shown(self, network: nn.Module) -> nn.Module:
        return self._scored if network is self.network else network

    def learn(self, batch: Batch, taught: Taught | None) -> Figures:
        whole = len(batch.y) == self.trial.protocol.batch and self.phase is None
        if not whole or self.unrepeatable:
            return super().learn(batch, taught)
        if self.unrepeatable is None:
            before = _held(self.method)
            figures = super().learn(batch, taught)
            self.unrepeatable = self._why_not(before)
            return figures
        if self._recording is None or ("epoch" in self._asked and self._epoch != self._epoch_of(self.position)):
            try:
                self._record(batch, taught)
            except RuntimeError as error:  # what it did not like about the capture, it says again if it is a mistake
                self.unrepeatable = f"it cannot be captured: {described(error)}"
                return super().learn(batch, taught)
        torch._foreach_copy_(self._inputs, _tensors(batch, taught))
        for held, group in zip(self._rates, self.optimiser.param_groups, strict=True):
            held.fill_(group["lr"])
        assert self._recording is not None
        return self._recording.replay()

    def make_step(self, *arguments: Any, **keywords: Any) -> Step:
        return _watched(super().make_step(*arguments, **keywords), self._asked)

    def _why_not(self, before: list[Any]) -> str:
        """What keeps its steps from being replayed, after a first one in which its method held ``before``."""
        if not self_contained(self.trial, self.network, self.method):
            return "it draws random numbers, or is not kdbench's own"
        if type(self.optimiser) is not SGD:
            return "it brings an optimiser of its own"
        if asked := self._asked & {"progress", "generator"}:
            return f"its loss asks for {' and '.join(sorted(asked))} at each step"
        after = _held(self.method)
        if len(after) != len(before) or any(one is not other for one, other in zip(before, after, strict=True)):
            return "its method keeps something in Python from step to step"
        return ""

    def _record(self, batch: Batch, taught: Taught | None) -> None:
        """Capture a step on copies of ``batch`` and ``taught``, with the rates in tensors."""
        self._recording, self._epoch = None, self._epoch_of(self.position)
        still, said = batch.first(len(batch.y)), None if taught is None else taught.map(_copied)
        groups = self.optimiser.param_groups
        rates = [group["lr"] for group in groups]
        self._inputs = _tensors(still, said)
        self._rates = [torch.zeros((), device=self.device) for _ in groups]
        for group, held in zip(groups, self._rates, strict=True):
            group["lr"] = held
        try:
            self._recording = Recording(partial(super().learn, still, said))
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


class _Watched(Step):
    """A step that notes what of MOVING its method looks at."""

    MOVING = frozenset({"epoch", "progress", "generator"})
    asked: set[str]

    def __getattribute__(self, name: str) -> Any:
        if name in _Watched.MOVING:
            object.__getattribute__(self, "asked").add(name)
        return object.__getattribute__(self, name)

    def with_outputs(self, student: Outputs, teacher: Outputs | None, views: Mapping[str, View]) -> Step:
        plain = Step(**{field.name: object.__getattribute__(self, field.name) for field in fields(Step)})
        return _watched(plain.with_outputs(student, teacher, views), self.asked)


def _watched(step: Step, asked: set[str]) -> Step:
    made = _Watched(**vars(step))
    object.__setattr__(made, "asked", asked)
    return made


def _held(method: nn.Module) -> list[Any]:
    """All that ``method`` and its parts hold by name. A tensor that is written to stays the same one."""
    parts = [table for module in method.modules() for table in (vars(module), module._parameters, module._buffers)]
    return [value for table in parts for value in table.values()]


def _tensors(batch: Batch, taught: Taught | None) -> list[Tensor]:
    return [*batch.tensors(), *([] if taught is None else taught.tensors())]


def _copied(outputs: Outputs) -> Outputs:
    return outputs.map(torch.clone)
