"""Kinds of teacher that are made of other teachers. Imports no torch: a composition's rule does when it is asked."""

from __future__ import annotations

from kdbench.composition.base import Composition
from kdbench.composition.biased import Biased
from kdbench.composition.ensemble import Ensemble
from kdbench.composition.labels import Labels
from kdbench.composition.specialists import Specialists
from kdbench.registry import OURS, Registry

__all__ = ["COMPOSITIONS", "NETWORKS", "Composition"]

#: The kinds of teacher that are a network each (kdbench.suites.teacher), and a line on each.
NETWORKS = {
    "trained": "made here by plain cross-entropy training",
    "checkpoint": "imported weights",
    "student": "what another suite has trained and kept",
    "self": "an earlier generation of the student",
}

COMPOSITIONS: Registry[type[Composition]] = Registry("kind of teacher")
for _kind in (Ensemble, Biased, Specialists, Labels):
    COMPOSITIONS.add(_kind.kind, _kind, OURS)
