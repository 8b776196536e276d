"""Where a checkpoint teacher's file lies. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from kdbench.errors import CheckpointError
from kdbench.trials.teacher import Teacher


def find_checkpoint(teacher: Teacher, root: Path) -> Path:
    """The first of the teacher's files under ``root`` or ``root/weights``.

    CheckpointError says which are wanted where.
    """
    for name in teacher.files:
        for folder in (root / "weights", root):
            if (folder / name).is_file():
                return folder / name
    source = f" It is published at {teacher.url}." if teacher.url else f" {teacher.source}" if teacher.source else ""
    raise CheckpointError(
        f"Teacher {teacher.name} wants its weights, {' or '.join(teacher.files)}, in {root / 'weights'} "
        f"(the data root is --data-root or KDBENCH_DATA).{source} --train-teachers trains one instead."
    )
