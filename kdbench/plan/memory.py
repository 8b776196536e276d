"""What a task is expected to hold of a GPU's memory, as far as something like it was measured. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbench.plan.task import Task
from kdbench.trials.trial import Trial


@dataclass
class Needs:
    """Measured peaks, by what they depend on first: the student, its teacher, the images and how they are stepped."""

    #: The largest peak, and how many students there were.
    _most: dict[Hashable, tuple[float, int]] = field(default_factory=dict)

    def learn(self, task: Task, peak: float) -> None:
        """Take note that the worker of ``task`` was measured to hold ``peak`` bytes."""
        if task.trials:
            self._note(_kind(task.trials[0]), peak, len(task.trials))

    def read(self, records: Iterable[Mapping[str, Any]], trials: Iterable[Trial]) -> None:
        """Take note of the peaks that ``records`` on a GPU say of trials like any of ``trials``."""
        kinds = {(t.dataset, t.student, t.protocol.batch, t.protocol.precision): _kind(t) for t in trials}
        for record in records:
            cost, numerics = record["cost"], record["numerics"]
            if not cost or not numerics or numerics["device"] != "cuda":
                continue
            protocol = record["identity"]["protocol"]
            like = (record["dataset"], record["student_model"], protocol["batch"], protocol["precision"])
            if like in kinds:
                self._note(kinds[like], cost["peak_memory_bytes"], cost["cohort_size"])

    def of(self, task: Task) -> float:
        """Bytes that ``task`` is expected to hold: what it says itself, or what its like have held; 0 if nobody knows.

        A smaller cohort is expected to take as much as the one that was measured, since teacher and activations are the
        same, and a larger one in proportion.
        """
        known = self._most.get(_kind(task.trials[0])) if self._most and task.trials else None
        if task.memory or known is None:
            return task.memory
        peak, students = known
        return peak * max(1.0, len(task.trials) / students)

    def _note(self, kind: Hashable, peak: float, students: int) -> None:
        self._most[kind] = max(self._most.get(kind, (0.0, 1)), (peak, max(students, 1)))


def _kind(trial: Trial) -> Hashable:
    teacher = (trial.teacher.model, len(trial.teacher.parts)) if trial.teacher else ()
    return trial.dataset, trial.student, teacher, trial.protocol.batch, trial.protocol.precision
