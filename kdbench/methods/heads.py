"""Classifiers taken apart: seen with the map they pool, applied to maps, exchanged in the deployed network."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods.base import Step, full
from kdbench.models.adapter import PixelHead
from kdbench.models.body import average
from kdbench.models.outputs import NetworkSpec, Outputs


def on_map(head: nn.Module, maps: Tensor) -> Tensor:
    """Logits [N,K,H,W] of the classifier ``head`` at every position of maps [N,C,H,W]."""
    n, _, h, w = maps.shape
    scores = cast(Tensor, head(maps.permute(0, 2, 3, 1).flatten(0, 2)))
    return scores.unflatten(0, (n, h, w)).permute(0, 3, 1, 2)


def check_pooled_map(method: str, network: NetworkSpec) -> None:
    """UserError unless the classifier of ``network`` reads the average of a map."""
    if not any(network.pooled_map):
        raise UserError(
            f"{method}: the {network.pooled} features that the classifier of {network.name} reads are not the average "
            "of a map; choose a network that averages its last map and classifies the result."
        )


def pooled_map(outputs: Outputs) -> Tensor:
    """The map [N,D,H,W] whose average the classifier reads, in at least float32."""
    assert outputs.pooled_map is not None, "the card's needs list pooled_map and setup checks for it"
    return full(outputs.pooled_map)


def teacher_head(step: Step) -> nn.Module:
    """The teacher's frozen classifier, pooled [N,D] to logits [N,K]."""
    assert step.teacher_head is not None, "the card's needs list teacher_head"
    return step.teacher_head


class Average(nn.Module):
    """Global average pooling, [N,C,H,W] to [N,C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return average(maps)


class Deployed(nn.Module):
    """A snapshot of ``student`` whose classifier ``head`` gave way to ``tail``, from a map [N,C,H,W] to logits [N,K].

    ``part`` says which map: ``pooled_map``, or ``stages`` for the last of them; with ``pooled`` the tail begins at
    features [N,D]. The copies count as what ships: the student without its own classifier, and the tail.
    """

    def __init__(self, student: nn.Module, head: nn.Module, tail: nn.Module, part: str = "pooled_map") -> None:
        super().__init__()
        self.part = part
        own = head.conv if isinstance(head, PixelHead) else head
        path = next(name for name, module in student.named_modules() if module is own)
        self.student = copy.deepcopy(student)
        self.student.set_submodule(path, nn.Identity())
        self.tail = copy.deepcopy(tail)

    def forward(self, x: Tensor, parts: frozenset[str] = frozenset()) -> Outputs:
        """Logits of images ``x`` [N,C,H,W], with those ``parts`` of the student that were asked for."""
        out: Outputs = self.student(x, parts | {self.part})
        return replace(out, logits=self.tail(out.stages[-1] if self.part == "stages" else getattr(out, self.part)))
