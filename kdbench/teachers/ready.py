"""A ready teacher: its network with the kept weights, its facts and its test logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data import Dataset, DatasetSpec
from kdbench.errors import CheckpointError, UserError, shown
from kdbench.models.composed import Composed
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.teachers.facts import TeacherFacts, TeacherShelf
from kdbench.teachers.find import find_checkpoint
from kdbench.teachers.making import Maker, maker_of
from kdbench.teachers.published import PREFIXES
from kdbench.teachers.weights import kept_weights, read_weights, weights_digest
from kdbench.train.seeds import seeded
from kdbench.trials.teacher import Teacher

#: What the names of heads begin with that torchvision's networks have in training only.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


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


def imported(teacher: Teacher, spec: DatasetSpec, path: Path) -> dict[str, Tensor]:
    """The published weights in ``path`` by the names that the teacher's network has for them, and no others.

    They are in the network's own precision, whatever the file's. CheckpointError where they are not such a network's.
    """
    network = _network(teacher, spec)
    own = network.body.state_dict()
    state = _as_precise(_by_name(read_weights(path, teacher.key), own), own)
    if teacher.kind == "init":
        head = _head(network)
        fits = all(n in state and state[n].shape == own[n].shape for n in head)
        if teacher.head or not fits:
            state = {name: value for name, value in state.items() if name not in head}
            own = {name: value for name, value in own.items() if name not in head}
    _check_fit(own, state, teacher, path)
    return state


def has_head(teacher: Teacher, spec: DatasetSpec, state: Mapping[str, Tensor]) -> bool:
    """Whether ``state``, which was imported for ``teacher``, has a classifier."""
    return teacher.kind != "init" or all(name in state for name in _head(_network(teacher, spec)))


def starting_weights(init: Teacher, spec: DatasetSpec, root: Path) -> dict[str, Tensor]:
    """The weights that ``init`` stands for, as they were planned; UserError where the file is gone, or another one."""
    path = find_checkpoint(init, root)
    state = imported(init, spec, path)
    if (found := weights_digest(state)) != init.weights_sha256:
        raise CheckpointError(other_weights(path, found, init))
    return state


def _head(network: Network) -> list[str]:
    """The names that the weights of the classifier have in its state_dict."""
    head = {id(parameter) for parameter in network.head.parameters()}
    return [name for name, parameter in network.body.named_parameters() if id(parameter) in head]


def other_weights(path: Path, found: str, teacher: Teacher) -> str:
    """What is said where the file of ``teacher`` holds other weights than those that are pinned."""
    anew = (
        "give the new file another name" if teacher.kind == "init" else "pin the new weights under another teacher name"
    )
    return (
        f"The weights in {path} are not the pinned ones: their digest is {found[:16]}, pinned is "
        f"{teacher.weights_sha256[:16]}; fetch the file again, or {anew}."
    )


def network_of(
    teacher: Teacher, spec: DatasetSpec, state: Mapping[str, Tensor], device: torch.device, path: Path
) -> Network:
    """The teacher's network for images of ``spec``, in eval mode; CheckpointError where ``state`` does not fit it.

    ``path``: where the weights lie, for that message.
    """
    network = _network(teacher, spec)
    _check_fit(network.body.state_dict(), state, teacher, path)
    network.body.load_state_dict(state, strict=False)  # apart from batch counters, which some publishers leave out
    network.to(device, memory_format=torch.channels_last)
    network.eval()
    return network


def _network(teacher: Teacher, spec: DatasetSpec) -> Network:
    norm = teacher.normalisation
    shape, build = spec.image_shape, teacher.build
    with seeded("teacher"):
        return create(teacher.model, classes=spec.classes, image_shape=shape, mean=norm.mean, std=norm.std, build=build)


def _by_name(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the heads that published networks were trained with beside their own.

    A network whose own names all begin like a trainer's prefix gets it back.
    """
    for prefix in PREFIXES:
        if own and all(name.startswith(prefix) for name in own) and not any(n.startswith(prefix) for n in state):
            state = {prefix + name: value for name, value in state.items()}
    auxiliary = [name for name in state if name.startswith(AUXILIARY) and name not in own]
    return {name: value for name, value in state.items() if name not in auxiliary}


def _as_precise(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` in the network's ``own`` types, but for whole numbers in the place of others, which are no weights."""
    return {
        name: value.to(own[name].dtype)
        if name in own and value.is_floating_point() == own[name].is_floating_point()
        else value
        for name, value in state.items()
    }


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], teacher: Teacher, path: Path) -> None:
    """CheckpointError unless ``state`` has each of the network's ``own`` weights and nothing else."""
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    coarse = [n for n in own if n in state and own[n].is_floating_point() and not state[n].is_floating_point()]
    for what, names in (
        ("lacks", missing),
        ("has, but the model has not,", unexpected),
        ("has in another shape", wrong),
        ("has in whole numbers", coarse),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"The weights in {path} do not fit the model {teacher.model}: the file {what} {shown(names[0])}{more}"
                f"{_advice(own, state, wrong)}."
            )


def _advice(own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Sequence[str]) -> str:
    """What may help, as the end of a sentence."""
    if wrong and set(own) <= set(state) and all(own[n].shape[1:] == state[n].shape[1:] for n in wrong):
        theirs = state[wrong[0]].shape[0]
        return f": it was made for {theirs} classes; give the teacher head = 'new', and it is fine-tuned with a new one"
    begun = {name.partition(".")[0] for name in state}
    if len(begun) > 1 and any(f"{first}.{name}" in state for first in begun for name in own):
        return "; it holds several networks: name the one that you want as the teacher's key"
    return ""
