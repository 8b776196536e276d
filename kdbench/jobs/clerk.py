"""The records of a cohort, written as its members end."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from kdbench.data import Dataset
from kdbench.errors import UserError, described
from kdbench.models.precision import native
from kdbench.plan.task import Task
from kdbench.records.build import build_record
from kdbench.records.store import Store
from kdbench.teachers.ready import ReadyTeacher
from kdbench.teachers.weights import weights_digest
from kdbench.train.account import Account
from kdbench.train.device import NOBODYS
from kdbench.train.lockstep import Emit, Outcome
from kdbench.train.member import Member
from kdbench.trials.trial import Trial

#: On the record of a trial in bf16 whose speeds are those of float32.
EMULATED = (
    "This device has no instructions for bfloat16: float32 ones computed it, operands and results rounded, so the "
    "accuracy is that of bf16 and the speeds are not."
)


class Clerk:
    """Writes the records of a cohort as its members end."""

    def __init__(
        self,
        task: Task,
        store: Store,
        dataset: Dataset,
        machine: dict[str, Any],
        taught: ReadyTeacher | None,
        emit: Emit,
        on_finish: Callable[[Member], None] | None,
    ) -> None:
        self.task, self.store, self.dataset, self.machine = task, store, dataset, machine
        self.taught, self.emit, self.on_finish = taught, emit, on_finish

    def failed(self, trial: Trial, error: BaseException) -> None:
        """Record a trial that could not even be built; a UserError is the method's word that it is not defined here."""
        if isinstance(error, UserError):
            record = build_record(trial, "inapplicable", detail=str(error), numerics=self.machine)
        else:
            record = build_record(trial, "crashed", detail=described(error), numerics=self.machine)
        self._put(trial, record)

    def ended(self, member: Member, outcome: Outcome, account: Account) -> None:
        """Record how ``member`` ended."""
        trial, taught = member.trial, self.taught if member.spec.needs_teacher else None
        warnings = list(self.task.warnings) + ([] if taught is None else taught.facts.warnings(taught.teacher))
        if trial.protocol.precision == "bf16" and not native(member.device):
            warnings.append(EMULATED)
        finished, cost = outcome.status == "finished", None
        if finished:
            try:
                cost = account.section(member)
            except NOBODYS:
                raise
            except (Exception, SystemExit) as error:  # other people's network: one that cannot even be counted
                traceback.print_exc()
                outcome, finished = Outcome("crashed", described(error)), False
        record = build_record(
            trial,
            outcome.status,
            detail=outcome.detail,
            numerics=self.machine,
            scores=member.scoring.scores() if finished else None,
            curve=member.scoring.curve,
            teacher=None if taught is None else taught.facts.section(taught.teacher),
            cost=cost,
            weights_sha256=weights_digest(member.deployed.state_dict()) if finished else None,
            warnings=warnings,
            attempts=self.task.attempt,
            resumed=member.resumed,
        )
        if finished and self.on_finish is not None:
            self.on_finish(member)
        self._put(trial, record, member.scoring.arrays() if finished else None)

    def _put(self, trial: Trial, record: dict[str, Any], predictions: dict[str, Any] | None = None) -> None:
        self.store.put(record, predictions)
        last = record["scores"]["last"]
        self.emit(
            {
                "event": "trial",
                "key": record["key"],
                "title": trial.title,
                "teacher": trial.label == "teacher",
                "status": record["status"],
                "detail": record["detail"],
                "top1": None if last is None else last["top1"],
            }
        )
