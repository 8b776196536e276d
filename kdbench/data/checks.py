"""The sentences of a data set that is missing or impossible."""

from __future__ import annotations

from pathlib import Path

from kdbench.data.spec import DatasetSpec, Labels
from kdbench.errors import DataError, MissingData


def how_to_get(spec: DatasetSpec, and_then: str = "") -> str:
    """Which files are wanted and where they are published, as part of a sentence."""
    download = ", or let kdbench run --download fetch it" if spec.downloadable else ""
    return f"wanted is {spec.files}; get it from {spec.url}{and_then}{download}"


def missing(spec: DatasetSpec, root: Path, path: Path | None = None) -> MissingData:
    """The error for a data set, or one file of it, that is not under ``root``."""
    what = f"{path} of {spec.title} is missing" if path else f"{spec.title} is not under {root}"
    point = " and point --data-root or KDBENCH_DATA at the folder that holds it"
    error = MissingData(f"{what}: {how_to_get(spec, point)}.")
    error.path = path
    return error


def check_labels(labels: Labels, spec: DatasetSpec, path: Path | str) -> None:
    """Raise DataError unless every label of ``path`` is one of the ``spec.classes`` classes."""
    wrong = (labels < 0) | (labels >= spec.classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{path} has label {int(labels[first])} at record {first}, but {spec.title} has labels 0 to "
            f"{spec.classes - 1}; the file is damaged or of another data set."
        )
