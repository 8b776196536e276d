"""Noisy labels: every image has a label, and some labels are wrong, by chance or as people gave them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from kdbench.data.pinned import file_problem, read_pinned
from kdbench.data.spec import DatasetSpec, Labels
from kdbench.errors import DataError, reason
from kdbench.supervision.base import Lesson, Supervision, Truth, uniform

FORMS = ("symmetric", "pair")


@dataclass(frozen=True)
class NoisyLabels(Supervision):
    """Of all labels, a share of ``rate`` is wrong as ``form`` says and ``seed`` draws; or all come from ``file``.

    ``symmetric``: any other class, each as likely; ``pair``: the next one, and the first after the last. ``file``: a
    path below the data root, to a whole number for each image of the whole training set, in its order: a list in
    numpy's .npy, or a text of one a line. ``sha256`` is that file's.
    """

    SUMMARY: ClassVar[str] = "labels of which some are wrong: by chance, or as a file has them"
    SOURCE: ClassVar[str] = "symmetric and pair: arXiv:1804.06872; labels that people gave: arXiv:2110.12088"
    kind: str = field(init=False, default="noisy-labels")
    rate: float = 0.0
    form: str = "symmetric"
    seed: int = 0
    file: str = ""
    sha256: str = ""

    def problem(self) -> str:
        if self.form not in FORMS:
            return f"form must be one of {', '.join(FORMS)}"
        if self.seed < 0:
            return "seed must be at least 0"
        if bool(self.file) == bool(self.rate):
            return "give either a rate or a file"
        if not 0 <= self.rate <= 1:
            return f"rate must lie in (0, 1], not be {self.rate:g}"
        return file_problem(self.file, self.sha256, (".npy", ".txt"))

    def misfit(self, data: DatasetSpec) -> str:
        return "" if data.classes > 1 or self.file else f"{data.name} has one class"

    def lesson(self, truth: Truth) -> Lesson:
        if self.file:
            return Lesson(truth.places, self._read(truth)[truth.places])
        labels = truth.own
        words = truth.words("noisy-labels", self.seed, 2)
        step = 1 + (words[:, 1] % np.uint64(truth.classes - 1)).astype(np.int64) if self.form == "symmetric" else 1
        wrong = uniform(words[:, 0]) < self.rate
        return Lesson(truth.places, np.where(wrong, (labels + step) % truth.classes, labels))

    def _read(self, truth: Truth) -> Labels:
        """The labels [N] in the file; DataError where it is missing, another one, or holds something else."""
        path = truth.root / self.file
        content = read_pinned(truth.root, self.file, self.sha256)
        labels = _labels(content, path)
        if len(labels) != len(truth.labels):
            raise DataError(f"{path} holds {len(labels)} labels, and there are {len(truth.labels)} training images.")
        if labels.min() < 0 or labels.max() >= truth.classes:
            raise DataError(f"{path} holds labels outside 0 to {truth.classes - 1}.")
        return labels


def _labels(content: bytes, path: Path) -> Labels:
    try:
        if path.suffix == ".npy":
            found = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            found = np.array([int(line) for line in content.decode("ascii").split()])
        if not (isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype.kind in "iu"):
            raise ValueError("it is no list of whole numbers")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} holds no labels: {reason(error)}.") from None
    return found.astype(np.int64)
