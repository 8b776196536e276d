"""Partial labels: each image has a set of candidate classes in the place of a label.

The loss on such a set is -log of the probability of all its classes together, which is cross-entropy where there is
one (Feng et al., NeurIPS 2020, arXiv:2007.08929).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kdbench.data.spec import DatasetSpec
from kdbench.supervision.base import NO_LABEL, Lesson, Supervision, Truth, uniform

#: Images times classes that candidates are kept of.
LARGEST = 10**8


@dataclass(frozen=True)
class PartialLabels(Supervision):
    """Candidate sets as ``seed`` draws them.

    Each wrong class is a candidate with the probability ``ambiguity``, and the true one is none with the probability
    ``unreliability``; a set that would be empty has one wrong class.
    """

    SUMMARY: ClassVar[str] = "a set of candidate classes for each image"
    SOURCE: ClassVar[str] = "arXiv:2007.08929, arXiv:2302.08155"
    WEAK: ClassVar[bool] = True
    kind: str = field(init=False, default="partial-labels")
    ambiguity: float = 0.0
    unreliability: float = 0.0
    seed: int = 0

    def problem(self) -> str:
        for name in ("ambiguity", "unreliability"):
            if not 0 <= getattr(self, name) <= 1:
                return f"{name} must lie in [0, 1], not be {getattr(self, name):g}"
        if not self.ambiguity and not self.unreliability:
            return "it leaves every label as it is; give an ambiguity or an unreliability, or use the kind full"
        return "seed must be at least 0" if self.seed < 0 else ""

    def misfit(self, data: DatasetSpec) -> str:
        if data.train_size * data.classes > LARGEST:
            return f"a table of {data.train_size:,} images and {data.classes:,} classes is too large"
        return "" if data.classes > 1 else f"{data.name} has one class"

    def lesson(self, truth: Truth) -> Lesson:
        labels, rows = truth.own, np.arange(len(truth.places))
        words = truth.words("partial-labels", self.seed, truth.classes + 1)
        drawn = uniform(words)
        candidates = drawn[:, :-1] < self.ambiguity
        candidates[rows, labels] = drawn[rows, labels] >= self.unreliability
        step = 1 + (words[:, -1] % np.uint64(truth.classes - 1)).astype(np.int64)
        empty = ~candidates.any(1)
        candidates[rows[empty], ((labels + step) % truth.classes)[empty]] = True
        only = candidates.sum(1) == 1
        return Lesson(truth.places, np.where(only, candidates.argmax(1), NO_LABEL), candidates)
