"""Kinds of supervision: which training images a student sees, and with which labels. Imports no torch."""

from __future__ import annotations

from kdbench.registry import OURS, Registry
from kdbench.supervision.base import FULL, NO_LABEL, Full, Lesson, Supervision, Truth
from kdbench.supervision.few_labels import FewLabels
from kdbench.supervision.noisy_labels import NoisyLabels
from kdbench.supervision.partial_labels import PartialLabels
from kdbench.supervision.transfer_set import TransferSet

__all__ = ["FULL", "NO_LABEL", "SUPERVISIONS", "Full", "Lesson", "Supervision", "Truth"]

SUPERVISIONS: Registry[type[Supervision]] = Registry("supervision")
for _kind in (Full, TransferSet, FewLabels, NoisyLabels, PartialLabels):
    SUPERVISIONS.add(_kind.kind, _kind, OURS)
