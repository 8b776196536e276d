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
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.plugins import load_plugins
from kdbench.records.find import find, kept_weights_of
from kdbench.records.store import Store
from kdbench.students.kept import About, about
from kdbench.teachers.weights import kept_weights


class Student(nn.Module):
    """A trained network, in eval mode: images [N,C,H,W] in [0, 1] to logits [N,K], which it normalises itself.

    ``about`` says what it is of; ``pictures`` reads files as it was shown them.
    """

    def __init__(self, network: Network, about: About) -> None:
        super().__init__()
        self.network = network
        self.about = about
        self.eval()

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
    if isinstance(record, str) or "identity" not in record:
        record = find(store, record if isinstance(record, str) else record["key"])
    return read_student(kept_weights_of(store, record))


def read_student(path: Path) -> Student:
    """The student whose kept weights are the file ``path``; UserError where they are no network by themselves."""
    said, state = about(path), kept_weights(path)
    if said.deployed != "student":
        raise UserError(
            f"The network in {path} is more than its student ({said.deployed}), and only its training puts it "
            "together; take a row that deploys the student alone."
        )
    with torch.random.fork_rng(devices=[]):
        network = create(said.model, classes=said.classes, image_shape=said.image_shape, mean=said.mean, std=said.std)
    try:
        network.load_state_dict(state)
    except RuntimeError:  # torch lists every tensor
        raise CheckpointError(
            f"The weights in {path} are not of {said.model} as it is built here; install the version that trained them."
        ) from None
    return Student(network, said)
