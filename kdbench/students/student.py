"""A trained student as a module of its own: from images in [0, 1] to logits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data.decoding import decode
from kdbench.errors import CheckpointError, UserError
from kdbench.methods import METHODS, load_class
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.outputs import DataSpec
from kdbench.plugins import load_plugins
from kdbench.records.find import find, kept_weights_of
from kdbench.records.store import Store
from kdbench.students.kept import About, about, read_kept
from kdbench.teachers.weights import BODY


class Student(nn.Module):
    """A trained network, in eval mode: images [N,C,H,W] in [0, 1] to logits [N,K], which it normalises itself.

    ``network`` is a ``kdbench.models.network.Network``, or what a method deploys in its place. ``about`` says what it
    is of; ``pictures`` reads files as it was shown them.
    """

    def __init__(self, network: nn.Module, about: About) -> None:
        super().__init__()
        self.network = network
        self.about = about
        self.eval()

    @property
    def alone(self) -> bool:
        """Whether it is the architecture that it is called by, and nothing beside."""
        return isinstance(self.network, Network)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits  # type: ignore[no-any-return]

    def pictures(self, files: Iterable[str | os.PathLike[str]]) -> Tensor:
        """The pictures in ``files``, cropped as in its evaluation: [N,C,H,W] in [0, 1]. DataError names a bad file."""
        found = decode([os.fspath(file) for file in files], self.about.image_shape, view=self.about.view)
        return found.permute(0, 3, 1, 2).float().div(255)


def load_student(record: Mapping[str, Any] | str, results: str | os.PathLike[str] = "results") -> Student:
    """The student that a finished trial left in the folder ``results``, of the epoch that ranks.

    ``record`` is a record, a line of ``load_results``, or what ``kdbench export`` takes: the beginning of a key, a row,
    ``ROW seed N``.
    UserError where there is none, or where it has no weights.
    """
    store = Store(Path(results))
    load_plugins()
    if not hasattr(record, "__contains__") or not (isinstance(record, str) or "identity" in record or "key" in record):
        raise UserError("load_student takes a record, a line of load_results, or the name of a trial: 'kd seed 0'.")
    if isinstance(record, str) or "identity" not in record:
        record = find(store, record if isinstance(record, str) else record["key"])
    return read_student(kept_weights_of(store, record))


def read_student(path: Path) -> Student:
    """The student whose kept weights are the file ``path``; UserError where only a training can put it together."""
    said, state = about(path), read_kept(path)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = create(
            said.model, classes=said.classes, image_shape=said.image_shape, mean=said.mean, std=said.std
        )
        if not all(name.startswith(BODY) for name in state):
            network = _deployed(network, said, path)
    try:
        network.load_state_dict(state)
    except RuntimeError:  # torch lists every tensor
        raise CheckpointError(
            f"The weights in {path} are not of {said.model} as it is built here; install the version that trained them."
        ) from None
    return Student(network, said)


def _deployed(network: Any, said: About, path: Path) -> nn.Module:
    """What the method puts together of its student ``network`` and the teacher's parts, with weights of no account."""
    alone = UserError(
        f"The network in {path} is more than its student ({said.deployed}), and only its training puts it together; "
        "take a row that deploys the student alone."
    )
    if not said.teacher:
        raise alone
    shape, spec = said.image_shape, METHODS.get(said.method)
    data = DataSpec(said.dataset, said.classes, 0, shape, torch.zeros(0, dtype=torch.int64), 1)
    try:
        teacher = create(
            said.teacher, classes=said.classes, image_shape=shape, mean=said.mean, std=said.std, build=said.build
        )
        specs = network.spec(said.model, shape), teacher.spec(said.teacher, shape)
        return load_class(spec).build(spec, said.config, *specs, data).deployed(network)
    except Exception:  # a method that looks at the training images, or other people's code
        raise alone from None
