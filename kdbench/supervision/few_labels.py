"""Few labels: all images are seen, and a few of each class have a label. Of the others only the teacher speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kdbench.data.spec import DatasetSpec
from kdbench.supervision.base import NO_LABEL, Lesson, Supervision, Truth


@dataclass(frozen=True)
class FewLabels(Supervision):
    """Labels on ``images`` of each class, which ``seed`` draws."""

    SUMMARY: ClassVar[str] = "labels on a few images of each class"
    SOURCE: ClassVar[str] = "arXiv:2302.08155"
    WEAK: ClassVar[bool] = True
    kind: str = field(init=False, default="few-labels")
    images: int = 0
    seed: int = 0

    def problem(self) -> str:
        if self.images < 1:
            return "images must be at least 1: so many of each class keep their label"
        return "seed must be at least 0" if self.seed < 0 else ""

    def misfit(self, data: DatasetSpec) -> str:
        if self.images * data.classes <= data.train_size:
            return ""
        return f"{data.name} has fewer than {self.images:,} training images a class"

    def lesson(self, truth: Truth) -> Lesson:
        labels, words = truth.own, truth.words("few-labels", self.seed)[:, 0]
        given = np.full_like(labels, NO_LABEL)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            chosen = members[np.argsort(words[members], kind="stable")[: self.images]]
            given[chosen] = label
        return Lesson(truth.places, given)
