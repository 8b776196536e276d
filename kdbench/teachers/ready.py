"""A ready teacher: its network with the kept weights, its facts and its test logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data import Dataset, DatasetSpec
from kdbench.errors import CheckpointError, UserError
from kdbench.models.composed import Composed
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.making import Maker, maker_of
from kdbench.teachers.weights import kept_weights, weights_digest
from kdbench.train.seeds import seeded
from kdbench.trials.teacher import Teacher


@dataclass(frozen=True)
class ReadyTeacher:
    """A teacher that can teach; ``logits`` [N,K] are those of the test images."""

    teacher: Teacher
    network: Network | Composed
    facts: TeacherFacts
    logits: Tensor


def ready_teacher(shelf: TeacherShelf, teacher: Teacher, dataset: Dataset, device: torch.device) -> ReadyTeacher:
    """The teacher that a task of its own has put on ``shelf``; UserError where it is not there."""
    facts, logits = shelf.facts(), shelf.test_logits()
    if facts is None or logits is None or teacher.weights_sha256 not in ("", facts.weights_sha256):
        raise UserError(
            f"The teacher {teacher.name} is not ready in {shelf.folder.parent}; start the run again to make it so."
        )
    if teacher.composition is not None:
        try:
            composed = maker_for(shelf, teacher, dataset, device).composed(device).to(device).eval()
        except CheckpointError:
            composed = None
        if composed is None or weights_digest(composed.state_dict()) != facts.weights_sha256:
            raise UserError(
                f"The teacher {teacher.name} in {shelf.folder} is not made of the weights that were measured; start "
                "the run again to make it anew."
            )
        return ReadyTeacher(teacher, composed, facts, torch.from_numpy(logits))
    try:
        state = kept_weights(shelf.weights)
    except CheckpointError:
        state = {}
    if weights_digest(state) != facts.weights_sha256:
        raise UserError(
            f"The weights of the teacher {teacher.name} in {shelf.folder} are not those that were measured; start the "
            "run again to make them anew."
        )
    network = network_of(teacher, dataset.spec, state, device, shelf.weights)
    return ReadyTeacher(teacher, network, facts, torch.from_numpy(logits))


def maker_for(shelf: TeacherShelf, teacher: Teacher, dataset: Dataset, device: torch.device) -> Maker:
    """What puts ``teacher`` together, of parts that are ready on shelves of their own; UserError where one is not."""
    if teacher.composition is None:
        raise ValueError(f"teacher {teacher.name} is of kind {teacher.kind}: it is not made of others")
    parts = [ready_teacher(shelf.of(part), part, dataset, device).network for part in teacher.parts]
    return maker_of(teacher.composition)(teacher, parts, dataset, shelf.folder)


def network_of(
    teacher: Teacher, spec: DatasetSpec, state: Mapping[str, Tensor], device: torch.device, path: Path
) -> Network:
    """The teacher's network for images of ``spec``, in eval mode; CheckpointError where ``state`` does not fit it.

    ``path``: where the weights lie, for that message.
    """
    norm = teacher.normalisation
    with seeded("teacher"):
        network = create(
            teacher.model, classes=spec.classes, image_shape=spec.image_shape, mean=norm.mean, std=norm.std
        )
    _load(network, state, teacher, path)
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
