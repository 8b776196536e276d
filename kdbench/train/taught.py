"""What the teacher says of a batch: made once for all the students of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdbench.models.composed import outputs_of
from kdbench.models.outputs import Outputs
from kdbench.train.batches import Batch


@dataclass(frozen=True)
class Taught:
    """The teacher's Outputs of a batch, and of each view of it by name."""

    outputs: Outputs
    views: Mapping[str, Outputs]

    def map(self, change: Callable[[Outputs], Outputs]) -> Taught:
        """``change`` done to the Outputs of the batch and of every view."""
        return Taught(change(self.outputs), {name: change(seen) for name, seen in self.views.items()})

    def tensors(self) -> list[Tensor]:
        return [tensor for part in (self.outputs, *self.views.values()) for tensor in part.tensors()]


def teach(teacher: nn.Module, batch: Batch, parts: frozenset[str], views: Collection[str] = ()) -> Taught:
    """Show ``batch`` and these views of it to the teacher, in eval mode whatever a method has left it in."""
    teacher.eval()
    outputs = _shown(teacher, batch.x, parts, batch.index)
    return Taught(outputs, {name: _shown(teacher, batch.views[name], parts, batch.index) for name in views})


def _shown(teacher: nn.Module, images: Tensor, parts: frozenset[str], index: Tensor) -> Outputs:
    """Copies of the outputs: autograd may not save what was made in inference mode, and CUDA graphs use it again."""
    with torch.inference_mode():
        outputs = outputs_of(teacher, images, parts, index=index)
    return outputs.map(torch.clone)
