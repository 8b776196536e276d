"""The sentences of a data set that is missing or impossible."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

from kdbench.data.spec import DatasetSpec, Labels
from kdbench.errors import DataError, MissingData, UserError


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


def check_spec(spec: DatasetSpec) -> DatasetSpec:
    """``spec``, if images could have its sizes and statistics; else UserError."""
    channels = spec.image_shape[0]
    if min(*spec.image_shape, spec.train_size, spec.test_size, spec.classes - 1) < 1:
        raise UserError(f"data set {spec.name!r}: it needs images, and two classes of them at least.")
    if not len(spec.mean) == len(spec.std) == channels:
        raise UserError(f"data set {spec.name!r}: mean and std need {channels} numbers each, one a channel.")
    if not all(map(isfinite, (*spec.mean, *spec.std))) or min(spec.std) <= 0:
        raise UserError(f"data set {spec.name!r}: mean must hold finite numbers, and std numbers greater than 0.")
    return spec


def check_labels(labels: Labels, spec: DatasetSpec, path: Path | str) -> None:
    """Raise DataError unless every label of ``path`` is one of the ``spec.classes`` classes."""
    wrong = (labels < 0) | (labels >= spec.classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{path} has label {int(labels[first])} at record {first}, but {spec.title} has labels 0 to "
            f"{spec.classes - 1}; the file is damaged or of another data set."
        )
