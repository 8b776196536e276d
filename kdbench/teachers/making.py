"""Networks that a teacher has beside its parts: what a composition's MAKER names trains and keeps them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdbench.composition import Composition
from kdbench.data import Dataset
from kdbench.errors import UserError, described
from kdbench.models.composed import Composed
from kdbench.train.pulse import Pulse
from kdbench.trials.teacher import Teacher


class Maker:
    """Base of makers: ``make`` trains what a teacher has of its own, and ``composed`` puts it beside the ``parts``.

    Both are given the ``folder`` that is kept, and in which ``make`` leaves what ``composed`` reads.
    """

    def __init__(self, teacher: Teacher, parts: Sequence[nn.Module], dataset: Dataset, folder: Path) -> None:
        self.teacher, self.dataset, self.folder = teacher, dataset, folder
        self.parts: list[Any] = list(parts)

    def make(self, device: torch.device, data_root: Path, pulse: Pulse) -> None:
        """Train what is not in the folder yet; nothing where nothing is trained. ``pulse`` is felt at every step."""

    def composed(self, device: torch.device) -> Composed:
        """The whole; CheckpointError where what was made is not there, or damaged."""
        composition = self.teacher.composition
        assert composition is not None, "only a teacher that is made of others has a maker"
        return Composed(self.parts, composition.speak, self.dataset.spec.classes)


def maker_of(composition: Composition) -> type[Maker]:
    """The class that the composition names, or the one that trains nothing."""
    if not composition.MAKER:
        return Maker
    module, _, name = composition.MAKER.partition(":")
    try:
        found: type[Maker] = getattr(importlib.import_module(module), name)
    except Exception as error:  # a plugin's module is other people's code: it may raise anything
        text = f"teachers of kind {composition.kind}: cannot load {composition.MAKER!r}: {described(error)}."
        raise UserError(text) from error
    return found
