"""What supervision is: of the training images, those that a student sees, and the labels it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kdbench.data.spec import DatasetSpec, Labels
from kdbench.data.splits import philox
from kdbench.kinds import Kind

#: In the place of the label of an image that has none, or more than one: what torch's cross-entropy passes over.
NO_LABEL = -100


@dataclass(frozen=True)
class Truth:
    """What a supervision is made from.

    places [n]: the images of the training split, in the whole training set; labels [N]: those of the whole; ``root``:
    the data root, for labels in files.
    """

    places: NDArray[np.int64]
    labels: Labels
    classes: int
    root: Path

    @property
    def own(self) -> Labels:
        """The labels [n] of the training split."""
        return self.labels[self.places]

    def words(self, purpose: str, seed: int, each: int = 1) -> NDArray[np.uint64]:
        """Raw words [n, each] for the images of the split.

        An image has its own wherever the split ends, and on every machine.
        """
        drawn = philox(purpose, seed).random_raw(len(self.labels) * each)
        return drawn.reshape(-1, each)[self.places]


@dataclass(frozen=True)
class Lesson:
    """What students are shown: ``places`` [n] of images in the whole training set, and their ``labels`` [n].

    Where one has none or several, its label is NO_LABEL; ``candidates`` [n,K] are the classes that it may be of.
    """

    places: NDArray[np.int64]
    labels: Labels
    candidates: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Supervision(Kind):
    """Base of kinds of supervision. ``WEAK``: some images have no label, or several."""

    WEAK: ClassVar[bool] = False

    def lesson(self, truth: Truth) -> Lesson:
        """What students are shown of ``truth``; UserError where it cannot be had."""
        raise TypeError(f"{type(self).__name__} does not define lesson(truth)")

    def misfit(self, data: DatasetSpec) -> str:
        """Why it is not defined on ``data``, in words; empty where it is."""
        return ""

    def portion(self, data: DatasetSpec) -> float:
        """About what share of the training images students are shown."""
        return 1.0


@dataclass(frozen=True)
class Full(Supervision):
    """Every image with its label. Older than the other kinds: what its identity says is in every older key."""

    SUMMARY: ClassVar[str] = "every image with its label"
    kind: str = field(init=False, default="full")

    def identity(self) -> Any:
        return "full"

    def lesson(self, truth: Truth) -> Lesson:
        return Lesson(truth.places, truth.own)


FULL = Full()


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The numbers in [0, 1) that stand in the upper 53 bits of ``words``."""
    return (words >> np.uint64(11)) * 2.0**-53


def unknown_class(classes: tuple[int, ...], data: DatasetSpec) -> str:
    """What to say of the first of ``classes`` that ``data`` does not have; empty where it has them all."""
    wrong = next((label for label in classes if not 0 <= label < data.classes), None)
    return "" if wrong is None else f"{data.name} has the classes 0 to {data.classes - 1}, and not {wrong}"
