"""Where a checkpoint teacher's file lies. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from kdbench.download import ARCHIVES
from kdbench.errors import CheckpointError
from kdbench.trials.teacher import Teacher

#: What files of weights end in.
WEIGHTS = (".pth", ".pt", ".safetensors", ".bin", ".ckpt")
#: A name that ends in the beginning of its file's digest, as torch.hub checks it.
_HASHED = re.compile(r"-([0-9a-f]{8,64})\.(?:pth?|safetensors)$")


def checkpoint_in(root: Path, teacher: Teacher) -> Path | None:
    """The first of the teacher's files under ``root/weights`` or ``root``; None where none of them is."""
    places = (folder / name for name in teacher.files for folder in (root / "weights", root))
    return next((place for place in places if place.is_file()), None)


def published_sha256(teacher: Teacher) -> str:
    """What the sha256 of the file at its ``url`` begins with: as the suite says, or as torch's own names of files do.

    Empty where nobody has said.
    """
    named = _HASHED.search(teacher.url)
    return teacher.sha256 or (named[1] if named else "")


def is_file(url: str) -> bool:
    """Whether ``url`` is that of weights or of an archive, by its name, and not of a page about them."""
    return urlsplit(url).path.endswith((*ARCHIVES, *WEIGHTS))


def whose(teacher: Teacher) -> str:
    """What is said of weights that are wanted, as the beginning of a sentence."""
    if teacher.kind == "init":
        return f"A training of {teacher.model} starts from weights"
    return f"Teacher {teacher.name} wants its weights"


def find_checkpoint(teacher: Teacher, root: Path) -> Path:
    """What ``checkpoint_in`` finds; CheckpointError says which files are wanted where."""
    found = checkpoint_in(root, teacher)
    if found is not None:
        return found
    fetch = ", or let kdbench run --download fetch them" if is_file(teacher.url) else ""
    train = ", or add --train-teachers, which trains one instead" if teacher.kind == "checkpoint" else ""
    where = f"get them from {teacher.url}" if teacher.url else "put them there"
    source = f" ({teacher.source})" if teacher.source else ""
    raise CheckpointError(
        f"{whose(teacher)}, {' or '.join(teacher.files)}, in {root / 'weights'} (the data root "
        f"is --data-root or KDBENCH_DATA); {where}{source}{fetch}{train}."
    )
