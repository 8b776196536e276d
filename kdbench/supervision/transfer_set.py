"""A transfer set: a part of the training images, with their labels.

Hinton, Vinyals and Dean distil into a student that never sees a 3, or nothing but 7s and 8s, and on 3 % of the data
(arXiv:1503.02531, sections 3 and 6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kdbench.data.spec import DatasetSpec
from kdbench.data.splits import quotas
from kdbench.supervision.base import Lesson, Supervision, Truth, unknown_class


@dataclass(frozen=True)
class TransferSet(Supervision):
    """The images of ``classes`` (all, where none is named) but not of ``without``; of those a ``share`` of each class.

    Which images these are, ``seed`` draws.
    """

    SUMMARY: ClassVar[str] = "a part of the images: some classes, or a share of each"
    SOURCE: ClassVar[str] = "arXiv:1503.02531"
    kind: str = field(init=False, default="transfer-set")
    classes: tuple[int, ...] = ()
    without: tuple[int, ...] = ()
    share: float = 1.0
    seed: int = 0

    def problem(self) -> str:
        if not 0 < self.share <= 1:
            return f"share must lie in (0, 1], not be {self.share:g}"
        if self.seed < 0:
            return "seed must be at least 0"
        if self.classes and set(self.classes) <= set(self.without):
            return "no class is left; name some in 'classes' that 'without' does not take away"
        if not self.classes and not self.without and self.share == 1:
            return "it leaves nothing out; give classes, without or share, or use the kind full"
        return ""

    def misfit(self, data: DatasetSpec) -> str:
        if wrong := unknown_class((*self.classes, *self.without), data):
            return wrong
        return "" if self._kept(data.classes) else "no class of it is left"

    def portion(self, data: DatasetSpec) -> float:
        return len(self._kept(data.classes)) / data.classes * self.share

    def lesson(self, truth: Truth) -> Lesson:
        labels = truth.own
        shown = np.isin(labels, self._kept(truth.classes))
        if self.share < 1:
            words = truth.words("transfer-set", self.seed)[:, 0]
            classes, counts = np.unique(labels[shown], return_counts=True)
            wanted = max(round(self.share * int(shown.sum())), 1)
            for label, count in zip(classes, quotas(counts, wanted), strict=True):
                members = np.flatnonzero(labels == label)
                shown[members[np.argsort(words[members], kind="stable")[count:]]] = False
        return Lesson(truth.places[shown], labels[shown])

    def _kept(self, classes: int) -> list[int]:
        return sorted(set(self.classes or range(classes)) - set(self.without))
