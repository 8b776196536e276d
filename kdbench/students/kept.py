"""The weights that a finished trial leaves, beside what they say of the network that they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kdbench.canonical import plain
from kdbench.data import DatasetSpec
from kdbench.data.files import View
from kdbench.data.folder import class_names
from kdbench.errors import CheckpointError
from kdbench.methods import METHODS
from kdbench.models.build import AS_NAMED, Build
from kdbench.records.beside import beside
from kdbench.records.store import WEIGHTS, Store
from kdbench.teachers.weights import STUDENT, kept_weights, said_of, weights_digest, write_weights
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial


@dataclass(frozen=True)
class About:
    """What is needed to build the network of a trial again, and to show it pictures as it was shown them.

    ``deployed`` is ``student``, or says what else the method deploys, whose network is put together again by
    ``method`` with ``config`` under a ``teacher``, an architecture that is built as ``build`` says. ``view`` is how
    pictures in files are cropped.
    """

    key: str
    model: str
    deployed: str
    classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    view: View | None
    method: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    teacher: str = ""
    build: Build = AS_NAMED
    dataset: str = ""

    @classmethod
    def of(cls, trial: Trial, spec: DatasetSpec) -> About:
        more = METHODS.get(trial.method).budget.deployed != "student"
        return cls(
            key=trial.key,
            model=trial.student,
            deployed=METHODS.get(trial.method).budget.deployed,
            classes=spec.classes,
            class_names=class_names(spec.folder) if spec.folder else (),
            image_shape=spec.image_shape,
            mean=trial.normalisation.mean,
            std=trial.normalisation.std,
            view=spec.folder.view if spec.folder else None if spec.loader.endswith(":imagefolder") else View(crop=1.0),
            **(_more(trial, trial.teacher, spec) if more and trial.teacher else {}),
        )


def _more(trial: Trial, teacher: Teacher, spec: DatasetSpec) -> dict[str, Any]:
    """What is needed beside the student where more is deployed."""
    return {
        "method": trial.method,
        "config": dict(trial.config),
        "teacher": teacher.model,
        "build": teacher.build,
        "dataset": spec.name,
    }


def damaged(store: Store) -> Iterator[tuple[Path, str]]:
    """Each file of kept weights in ``store`` that is not what its name says, with a sentence."""
    for path in (path for path in beside(store, WEIGHTS).files if path.suffix == ".safetensors"):
        try:
            read_kept(path)
        except CheckpointError as error:
            yield path, str(error)


def read_kept(path: Path) -> dict[str, Tensor]:
    """The kept weights at ``path``; CheckpointError where they are damaged, or others than the file's name says."""
    state = kept_weights(path)
    if (found := weights_digest(state)) != path.stem:
        raise CheckpointError(f"{path} holds the weights {found[:16]}, and its name says others; delete that file.")
    return state


def keep(store: Store, sha256: str, state: Mapping[str, Tensor], about: About) -> None:
    """Leave ``state``, whose digest is ``sha256``, in ``store``, where no version control takes it for a source."""
    store.ignore_weights()
    write_weights(state, store.weights_path(sha256), {STUDENT: json.dumps(plain(about))})


def about(path: Path) -> About:
    """What the kept weights at ``path`` say of their network; CheckpointError where that is nothing."""
    try:
        raw: dict[str, Any] = json.loads(said_of(path)[STUDENT])
        for name in ("class_names", "image_shape", "mean", "std"):
            raw[name] = tuple(raw[name])
        raw["build"] = Build(**raw.get("build", {}))
        raw["view"] = None if raw["view"] is None else View(*raw["view"])
        return About(**raw)
    except (OSError, KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} does not say which network it is of; train that trial again.") from None
