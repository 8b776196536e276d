"""A ready teacher: its network with the kept weights, its facts and its test logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdbench.data import Dataset, DatasetSpec
from kdbench.errors import CheckpointError, UserError
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.weights import read_weights
from kdbench.train.seeds import seeded
from kdbench.trials.teacher import Teacher


@dataclass(frozen=True)
class ReadyTeacher:
    """A teacher that can teach; ``logits`` [N,K] are those of the test images."""

    teacher: Teacher
    network: Network
    facts: TeacherFacts
    logits: Tensor


def ready_teacher(shelf: TeacherShelf, teacher: Teacher, dataset: Dataset, device: torch.device) -> ReadyTeacher:
    """The teacher that a task of its own has put on ``shelf``; UserError where it is not there."""
    facts = shelf.facts()
    if facts is None:
        raise UserError(
            f"The teacher {teacher.name} is not ready in {shelf.folder.parent}; start the run again to make it so."
        )
    network = network_of(teacher, dataset.spec, shelf.weights, device)
    return ReadyTeacher(teacher, network, facts, torch.from_numpy(np.load(shelf.logits, allow_pickle=False)))


def network_of(teacher: Teacher, spec: DatasetSpec, weights: Path, device: torch.device) -> Network:
    """The teacher's network for images of ``spec``, in eval mode; CheckpointError where the weights do not fit it."""
    norm = teacher.normalisation
    with seeded("teacher"):
        network = create(
            teacher.model, classes=spec.classes, image_shape=spec.image_shape, mean=norm.mean, std=norm.std
        )
    _load(network, read_weights(weights), teacher, weights)
    network.to(device, memory_format=torch.channels_last)
    network.eval()
    return network


def _load(network: Network, state: Mapping[str, Tensor], teacher: Teacher, path: Path) -> None:
    """Load strictly, apart from batch counters, which some publishers leave out."""
    own = network.body.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    for what, names in (
        ("lacks", missing),
        ("has, but the model has not,", unexpected),
        ("has in another shape", wrong),
    ):
        if names:
            raise CheckpointError(
                f"The weights in {path} do not fit the model {teacher.model}: the file {what} {names[0]!r}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}."
            )
    network.body.load_state_dict(state, strict=False)
