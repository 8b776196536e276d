"""Trials that share the data order and the teacher train in lockstep.

One cohort, one process, one teacher forward a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from kdbench.canonical import digest
from kdbench.trials.origins import foreign
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial, teacher_key

#: Students one process holds: weights and optimiser states, as only as many have activations as are stepped at a time.
COHORT_LIMIT = 16


@dataclass(frozen=True)
class Cohort:
    """Trials in lockstep. ``teacher`` is None when no member needs one."""

    trials: tuple[Trial, ...]

    @property
    def teacher(self) -> Teacher | None:
        return next((trial.teacher for trial in self.trials if trial.teacher), None)

    @property
    def id(self) -> str:
        return digest([trial.key for trial in self.trials])[:16]

    @property
    def title(self) -> str:
        first = next((trial for trial in self.trials if trial.teacher), self.trials[0])
        stream = f" stream {first.stream}" if first.stream else ""
        return f"{first.place} seed {first.seed}{stream}"


def _company(trial: Trial) -> Hashable:
    """What trials must agree on to see the same batches of the same data under the same protocol.

    And whose code they run: a plugin shares its process with nobody else's trials.
    """
    return (
        trial.dataset,
        trial.data_digest,
        trial.protocol,
        trial.seed,
        trial.stream,
        trial.supervision,
        trial.supervision_sha256,
        trial.student,
        trial.init and trial.init.weights_sha256,
        foreign(trial),
    )


def cohorts(trials: Iterable[Trial], limit: int = COHORT_LIMIT) -> list[Cohort]:
    """Group ``trials``.

    Those without a teacher join the first cohort that trains the same student on the same batches.
    """
    groups: dict[Hashable, dict[str, list[Trial]]] = {}
    for trial in trials:
        teacher = "" if trial.teacher is None else teacher_key(trial.teacher, trial.dataset, trial.data_digest)
        groups.setdefault(_company(trial), {}).setdefault(teacher, []).append(trial)
    made = []
    for by_teacher in groups.values():
        alone = by_teacher.pop("", [])
        lists = list(by_teacher.values()) or [[]]
        lists[0] = alone + lists[0]
        made += [Cohort(tuple(chunk)) for members in lists for chunk in _chunks(members, limit)]
    return made


def _chunks(members: Sequence[Trial], limit: int) -> list[Sequence[Trial]]:
    return [members[start : start + limit] for start in range(0, len(members), limit)]
