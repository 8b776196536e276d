"""A teacher as the plan knows it, and the normalisation that belongs to every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.composition import COMPOSITIONS, Composition
from kdbench.kinds import kind_from_json
from kdbench.models.build import AS_NAMED, Build
from kdbench.protocol import Protocol, protocol_from_json
from kdbench.supervision import FULL, SUPERVISIONS, Supervision


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation a channel, in [0,1] units; they belong to the network, not to the data."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Teacher:
    """A teacher as the plan knows it: imported weights, a network trained here, or what is made of other teachers.

    Kinds: ``checkpoint``; ``student``, whose weights another suite's ``trial`` has left; ``trained``, by cross-entropy;
    ``self``, an earlier generation of the student, of which the first is trained by cross-entropy and each later one by
    ``method`` under ``parent``, the generation before it; and those of ``composition``, made of ``parts``, whose
    ``model`` names the architectures of these, and which have seed and protocol where they train networks of their own.

    ``build`` says how its network is built and what it sees, where that is not as ``model`` says. A training may start
    from the weights of ``init``, a teacher of kind ``init`` that teaches nobody: a checkpoint whose classifier is left
    out where it does not fit, or where ``head`` is ``new``.

    ``plugin_sha256`` and ``model_code`` are of the method that trains it, or of its composition, and of its
    architecture, as a Trial has them; ``supervision`` and its ``supervision_sha256`` are those of its training.
    """

    name: str
    kind: str
    model: str
    normalisation: Normalisation
    seed: int = 0
    protocol: Protocol | None = None
    files: tuple[str, ...] = ()
    #: Where in the file its weights are, where it holds several networks.
    key: str = ""
    #: ``new`` where the classifier of the file is not taken.
    head: str = ""
    url: str = ""
    #: Of the file at ``url``, and not of the weights in it.
    sha256: str = ""
    weights_sha256: str = ""
    claimed_top1: float | None = None
    source: str = ""
    method: str = "ce"
    config: Mapping[str, Any] = field(default_factory=dict)
    plugin_sha256: str | None = None
    model_code: Mapping[str, Any] = field(default_factory=dict)
    parent: Teacher | None = None
    supervision: Supervision = FULL
    supervision_sha256: str | None = None
    composition: Composition | None = None
    parts: tuple[Teacher, ...] = ()
    trial: tuple[str, str, str] = ("", "", "")
    init: Teacher | None = None
    build: Build = AS_NAMED

    @property
    def trained(self) -> bool:
        """Whether it has a training of its own, which leaves a record."""
        return self.composition is None and self.protocol is not None

    @property
    def before(self) -> tuple[Teacher, ...]:
        """The teachers that must be ready before this one is made: the generation before it, or its parts."""
        return self.parts if self.parent is None else (self.parent,)

    @property
    def imports(self) -> tuple[Teacher, ...]:
        """Whose weights are in a file that the suite names: its own, or those that its training starts from."""
        return tuple(each for each in (self, self.init) if each is not None and each.kind in ("checkpoint", "init"))

    @property
    def lineage(self) -> tuple[Teacher, ...]:
        """This teacher, last, and all that stand behind it, each after those before it."""
        return (*(each for before in self.before for each in before.lineage), self)

    @cached_property
    def recipes(self) -> dict[tuple[str, str], str]:
        """Data set and its digest -> the key of this teacher's training on it, as far as it was asked for."""
        return {}


def normalisation_from_json(raw: Mapping[str, Any]) -> Normalisation:
    return Normalisation(tuple(raw["mean"]), tuple(raw["std"]))


def teacher_from_json(raw: Mapping[str, Any]) -> Teacher:
    values = dict(raw)
    values["normalisation"] = normalisation_from_json(values["normalisation"])
    values["protocol"] = None if values["protocol"] is None else protocol_from_json(values["protocol"])
    values["files"], values["trial"] = tuple(values["files"]), tuple(values["trial"])
    values["build"] = Build(**values["build"])
    values["init"] = None if values["init"] is None else teacher_from_json(values["init"])
    values["parent"] = None if values["parent"] is None else teacher_from_json(values["parent"])
    values["supervision"] = kind_from_json(SUPERVISIONS, values["supervision"])
    made_by = values["composition"]
    values["composition"] = None if made_by is None else kind_from_json(COMPOSITIONS, made_by)
    values["parts"] = tuple(map(teacher_from_json, values["parts"]))
    return Teacher(**values)
