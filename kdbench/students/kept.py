"""The weights that a finished trial leaves, beside what they say of the network that they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdbench.canonical import plain
from kdbench.data import DatasetSpec
from kdbench.data.files import View
from kdbench.data.folder import class_names
from kdbench.errors import CheckpointError
from kdbench.folders import write_atomically
from kdbench.methods import METHODS
from kdbench.records.store import Store
from kdbench.teachers.weights import STUDENT, said_of, write_weights
from kdbench.trials.trial import Trial


@dataclass(frozen=True)
class About:
    """What is needed to build the network of a trial again, and to show it pictures as it was shown them.

    ``deployed`` is ``student``, or says what else the method deploys. ``view`` is how pictures in files are cropped.
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

    @classmethod
    def of(cls, trial: Trial, spec: DatasetSpec) -> About:
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
        )


def keep(store: Store, sha256: str, state: Mapping[str, Tensor], about: About) -> None:
    """Leave ``state``, whose digest is ``sha256``, in ``store``, where no version control takes it for a source."""
    path = store.weights_path(sha256)
    ignored = path.parent / ".gitignore"
    if not ignored.exists():
        write_atomically(ignored, b"*\n")
    write_weights(state, path, {STUDENT: json.dumps(plain(about))})


def about(path: Path) -> About:
    """What the kept weights at ``path`` say of their network; CheckpointError where that is nothing."""
    try:
        raw: dict[str, Any] = json.loads(said_of(path)[STUDENT])
        for name in ("class_names", "image_shape", "mean", "std"):
            raw[name] = tuple(raw[name])
        raw["view"] = None if raw["view"] is None else View(*raw["view"])
        return About(**raw)
    except (OSError, KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} does not say which network it is of; train that trial again.") from None
