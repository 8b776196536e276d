"""Whose code a training runs: kdbench's own, or also that of plugins. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.composition import COMPOSITIONS
from kdbench.data import DATASETS
from kdbench.methods import METHODS, leaves
from kdbench.models import MODELS
from kdbench.registry import OURS, Registry
from kdbench.supervision import SUPERVISIONS, Supervision
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial


@dataclass(frozen=True)
class Plugin:
    """A plugin as a plan saw it. ``sha256``: of the file ``path``, or of an installed package's own files.

    A file has no ``version``; of what is neither, there is no ``sha256``.
    """

    name: str
    sha256: str
    version: str = ""
    path: str = ""


def foreign_method(name: str) -> frozenset[str]:
    """The plugins that the method ``name`` comes from, with all that it wraps and sums."""
    return _foreign({METHODS.origin(leaf.name) for leaf in leaves(METHODS.get(name))})


def foreign_model(name: str) -> frozenset[str]:
    """The plugin that the architecture ``name`` comes from; timm's and torchvision's count as ours."""
    return _foreign({_origin(MODELS, name)})


def foreign(trial: Trial) -> frozenset[str]:
    """The plugins whose code runs while ``trial`` trains, or that its identity names."""
    teacher = frozenset[str]() if trial.teacher is None else foreign_teacher(trial.teacher, trial.dataset)
    own = foreign_method(trial.method) | foreign_model(trial.student) | foreign_supervision(trial.supervision)
    return own | teacher | foreign_data(trial.dataset)


def foreign_teacher(teacher: Teacher, dataset: str) -> frozenset[str]:
    """The plugins whose code runs while ``teacher`` and those that stand behind it are made ready."""
    return foreign_data(dataset).union(*(_foreign_network(each) for each in teacher.lineage))


def _foreign_network(teacher: Teacher) -> frozenset[str]:
    """The plugins that make ``teacher`` itself, and not those before it."""
    if teacher.composition is not None:
        return _foreign({_origin(COMPOSITIONS, teacher.composition.kind)})
    return foreign_method(teacher.method) | foreign_model(teacher.model) | foreign_supervision(teacher.supervision)


def foreign_supervision(supervision: Supervision) -> frozenset[str]:
    """The plugin that the kind of ``supervision`` comes from."""
    return _foreign({_origin(SUPERVISIONS, supervision.kind)})


def foreign_data(name: str) -> frozenset[str]:
    """The plugin that the data set ``name`` comes from."""
    return _foreign({_origin(DATASETS, name)})


def _origin(registry: Registry, name: str) -> str:  # type: ignore[type-arg]
    return registry.origin(name) if name in registry else OURS


def _foreign(origins: set[str]) -> frozenset[str]:
    return frozenset(origins - {OURS})
