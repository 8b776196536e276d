"""CUDA graphs for a machine without a GPU: operations are recorded with their tensors, and run again on them.

As with CUDA, what is captured is not done, a replay reads and writes the memory that the capture saw, and a number that
Python computed stays what it was. ``install`` puts it in the place of the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from kdbench.train import graphs


class _Capture(TorchDispatchMode):
    """Runs operations for the shapes of their results, and can put back what they have written over."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in _tensors((args, kwargs)):
            if _place(tensor) not in self._made | self._before.keys():
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before[_place(tensor)] = whole, whole.clone()
        # Aliases keep the shape that a tensor has now, whatever an operation makes of it later.
        seen = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, (args, kwargs or {}))
        result = operator(*args, **(kwargs or {}))
        made = [tensor.detach() for tensor in _tensors(result)]
        self._made |= {_place(tensor) for tensor in made} - self._before.keys()
        self.calls.append((operator, *seen, made))
        return result

    def undo(self) -> None:
        for whole, content in self._before.values():
            whole.copy_(content)


class EagerRecording:
    """What graphs.Recording is, on a CPU."""

    count = 0

    def __init__(self, work: Callable[[], Any]) -> None:
        EagerRecording.count += 1
        capture = _Capture()
        try:
            with capture:
                self._result = work()
        finally:
            capture.undo()
        self._calls = capture.calls

    @torch.no_grad()
    def replay(self) -> Any:
        for operator, args, kwargs, made in self._calls:
            for kept, new in zip(made, _tensors(operator(*args, **kwargs)), strict=True):
                if _place(kept) != _place(new):
                    kept.copy_(new)
        return self._result


def install() -> None:
    graphs.Recording = EagerRecording  # type: ignore[assignment,misc]
    graphs.capture_works = lambda device: True


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
