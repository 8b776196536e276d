"""The trial: one training of one student, and the key that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.canonical import digest, plain
from kdbench.kinds import kind_from_json
from kdbench.methods import METHODS
from kdbench.models.build import AS_NAMED, Build
from kdbench.protocol import Protocol, protocol_from_json
from kdbench.supervision import FULL, SUPERVISIONS, Supervision
from kdbench.trials.teacher import Normalisation, Teacher, normalisation_from_json, teacher_from_json

#: Raised whenever a change of the engine moves a number. It is in every key, so older records stop counting as done.
ENGINE_VERSION = 1

#: What a suite may have measured of each finished student beside its scores: name -> a line on it.
DIAGNOSTICS = {"features": "how near a student's features have come to its teacher's"}


@dataclass(frozen=True)
class Trial:
    """Everything the plan decides about one training. ``label`` and ``suite`` name its row and are not in the key.

    Nor are ``diagnostics``, which are measured when it has ended and move nothing. ``init`` is what the student starts
    from where that is no draw: a teacher of kind ``init``. ``build`` is that of a Teacher in training.

    Where the code is not kdbench's, ``plugin_sha256`` is the digest of the method's plugin, or of those of a
    composition, ``supervision_sha256`` that of the supervision's, and ``student_code`` has that of the architecture's
    as ``source``, beside its ``options``.
    """

    suite: str
    dataset: str
    data_digest: str
    protocol: Protocol
    student: str
    normalisation: Normalisation
    pair: str
    teacher: Teacher | None
    method: str
    method_version: int
    config: Mapping[str, Any]
    seed: int
    label: str
    stream: int = 0
    plugin_sha256: str | None = None
    student_code: Mapping[str, Any] = field(default_factory=dict)
    supervision: Supervision = FULL
    supervision_sha256: str | None = None
    diagnostics: tuple[str, ...] = ()
    init: Teacher | None = None
    build: Build = AS_NAMED

    def identity(self) -> dict[str, Any]:
        """Everything the key hashes. Two trials that agree here are one trial."""
        return {
            "engine": ENGINE_VERSION,
            "data": {"name": self.dataset, "sha256": self.data_digest},
            "protocol": self.protocol.identity(),
            "student": {
                "model": self.student,
                **self.student_code,
                **_normalisation(self.normalisation),
                **self.build.identity(),
                **({} if self.init is None else {"init": self.init.weights_sha256}),
            },
            "teacher": None if self.teacher is None else teacher_identity(self.teacher, self.dataset, self.data_digest),
            "supervision": _with_source(self.supervision.identity(), self.supervision_sha256),
            "method": {
                "name": self.method,
                "version": self.method_version,
                "config": dict(self.config),
                "source": self.plugin_sha256,
            },
            "seed": self.seed,
            "stream": self.stream,
        }

    @cached_property
    def key(self) -> str:
        """What names the trial and its record; a trial never changes, so it is hashed once."""
        return digest(self.identity())

    @property
    def place(self) -> str:
        """The pair, or the student alone where there is no teacher, as progress lines name it."""
        return self.pair.partition(":")[2] if self.teacher is None else self.pair

    @property
    def title(self) -> str:
        """The trial in a progress line."""
        return f"{self.label} on {self.place}, seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        return plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Trial:
        values = dict(raw)
        values["protocol"] = protocol_from_json(values["protocol"])
        values["normalisation"] = normalisation_from_json(values["normalisation"])
        values["teacher"] = None if values["teacher"] is None else teacher_from_json(values["teacher"])
        values["build"] = Build(**values["build"])
        values["init"] = None if values["init"] is None else teacher_from_json(values["init"])
        values["supervision"] = kind_from_json(SUPERVISIONS, values["supervision"])
        values["diagnostics"] = tuple(values["diagnostics"])
        return cls(**values)


def _normalisation(n: Normalisation) -> dict[str, list[float]]:
    return {"mean": list(n.mean), "std": list(n.std)}


def _with_source(identity: Any, sha256: str | None) -> Any:
    """The ``identity`` of a kind, with the digest of the plugin that it comes from, if it comes from one."""
    if not sha256:
        return identity
    return {**(identity if isinstance(identity, Mapping) else {"kind": identity}), "source": sha256}


def teacher_trial(teacher: Teacher, dataset: str, data_digest: str, suite: str = "") -> Trial:
    """The training that makes a teacher: by cross-entropy, or under its parent. Its key is the teacher's recipe."""
    if teacher.protocol is None or not teacher.trained:
        raise ValueError(f"teacher {teacher.name} is of kind {teacher.kind}: it has no training")
    method = METHODS.get(teacher.method)
    return Trial(
        suite=suite,
        dataset=dataset,
        data_digest=data_digest,
        protocol=teacher.protocol,
        student=teacher.model,
        normalisation=teacher.normalisation,
        pair=f"{teacher.parent.name if teacher.parent else 'none'}:{teacher.name}",
        teacher=teacher.parent,
        method=method.name,
        method_version=method.version,
        config=method.config("", teacher.config, teacher.name),
        seed=teacher.seed,
        label="teacher",
        plugin_sha256=teacher.plugin_sha256,
        student_code=teacher.model_code,
        supervision=teacher.supervision,
        supervision_sha256=teacher.supervision_sha256,
        init=teacher.init,
        build=teacher.build,
    )


def teacher_identity(teacher: Teacher, dataset: str, data_digest: str) -> dict[str, Any]:
    """What a student's key says of its teacher.

    The recipe's key, the imported weights and their normalisation, or what it is made of and how.
    """
    if teacher.composition is not None:
        made_by = _with_source(teacher.composition.identity(), teacher.plugin_sha256)
        own = {} if teacher.protocol is None else {"seed": teacher.seed, "protocol": teacher.protocol.identity()}
        return {**made_by, **own, "parts": [teacher_identity(part, dataset, data_digest) for part in teacher.parts]}
    if teacher.kind not in ("checkpoint", "student"):
        recipe = teacher.recipes.get((dataset, data_digest)) or teacher_trial(teacher, dataset, data_digest).key
        teacher.recipes[dataset, data_digest] = recipe
        return {"kind": "trained", "recipe": recipe}
    return {
        "kind": "checkpoint",
        "model": teacher.model,
        **teacher.model_code,
        "weights_sha256": teacher.weights_sha256,
        **_normalisation(teacher.normalisation),
        **teacher.build.identity(),
    }


def teacher_key(teacher: Teacher, dataset: str, data_digest: str) -> str:
    """What names a teacher that is measured on a data set, whatever suites call it."""
    return digest([teacher_identity(teacher, dataset, data_digest), data_digest])
