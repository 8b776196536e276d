"""The convolutions of a piece of work and nothing else: what bounds its speed while a library's are what they are.

Every convolution that runs is recorded, forward and backward, with the shapes and strides of its arguments, and run
again on random numbers in tensors that are laid out alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: The first is what runs where autograd does not listen, the others where it does.
OPERATORS = (torch.ops.aten.conv2d, torch.ops.aten.convolution, torch.ops.aten.convolution_backward)


@dataclass(frozen=True)
class Layout:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def tensor(self) -> Tensor:
        extent = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(extent, device=self.device).to(self.dtype).as_strided(self.shape, self.stride)

    def channels_first(self) -> Layout:
        """The same with its last axis innermost."""
        return replace(self, stride=torch.empty(self.shape, device="meta").stride())


#: An operator and its arguments, a Layout for each tensor among them.
Call = tuple[Any, list[Any]]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.overloadpacket in OPERATORS:
            self.calls.append((operator, [_seen(argument) for argument in args]))
        return operator(*args, **(kwargs or {}))


def _seen(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    return Layout(tuple(argument.shape), argument.stride(), argument.dtype, argument.device)


def channels_first(calls: Sequence[Call]) -> list[Call]:
    """``calls`` on tensors that lie as torch lays them out by itself."""
    turned = partial(map, lambda argument: argument.channels_first() if isinstance(argument, Layout) else argument)
    return [(operator, list(turned(arguments))) for operator, arguments in calls]


def recorded(work: Callable[[], object]) -> list[Call]:
    """The convolutions of ``work``, which is done once."""
    with _Recorder() as recorder:
        work()
    return recorder.calls


def replay(calls: Sequence[Call]) -> Callable[[], None]:
    """What runs ``calls``.

    Of one layout in one place of an operator's arguments there is one tensor: activations are found in the cache, if at
    all, as those are that the operator before has just written.
    """
    tensors: dict[tuple[Any, int, Layout], Tensor] = {}

    def stand_in(operator: Any, place: int, argument: Any) -> Any:
        if not isinstance(argument, Layout):
            return argument
        key = (operator, place, argument)
        if key not in tensors:
            tensors[key] = argument.tensor()
        return tensors[key]

    made = [
        (operator, [stand_in(operator, place, argument) for place, argument in enumerate(arguments)])
        for operator, arguments in calls
    ]

    @torch.inference_mode()
    def run() -> None:
        for operator, arguments in made:
            operator(*arguments)

    return run
