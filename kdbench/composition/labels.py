"""A teacher that is no network: it says of each image what a file has of it, such as how often people chose a class.

CIFAR-10H (Peterson et al., ICCV 2019, arXiv:1908.07086) has about 50 judgements of each test image of CIFAR-10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from kdbench.composition.base import Composition
from kdbench.data.pinned import file_problem


@dataclass(frozen=True)
class Labels(Composition):
    """``file``: a path below the data root, to a table in numpy's .npy, and ``sha256`` that file's.

    The table has a row for each training image of the data set and then one for each test image, in their orders, with
    a number from 0 for each class: counts, or probabilities.
    """

    SUMMARY: ClassVar[str] = "no network: what a file says of each image, people's judgements say"
    SOURCE: ClassVar[str] = "arXiv:1908.07086"
    PARTS: ClassVar[tuple[int, int]] = (0, 0)
    MAKER: ClassVar[str] = "kdbench.teachers.labels:LabelsMaker"
    kind: str = field(init=False, default="labels")
    file: str = ""
    sha256: str = ""

    def problem(self) -> str:
        return file_problem(self.file, self.sha256, (".npy",)) if self.file else "give the file, and its sha256"
