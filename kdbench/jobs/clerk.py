"""The records of a cohort, written as its members end."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from kdbench.data import Dataset
from kdbench.errors import NotApplicable, described
from kdbench.measure.features import Sight, features, sight
from kdbench.models.composed import Composed
from kdbench.models.precision import native
from kdbench.plan.task import Task
from kdbench.plugins import planned
from kdbench.records.build import build_record
from kdbench.records.store import Store
from kdbench.students.kept import About, keep
from kdbench.teachers.ready import ReadyTeacher
from kdbench.teachers.weights import weights_digest
from kdbench.train.account import Account
from kdbench.train.device import nobodys
from kdbench.train.lockstep import Outcome
from kdbench.train.member import Member
from kdbench.train.pulse import Pulse
from kdbench.trials.origins import foreign
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
        pulse: Pulse,
        on_finish: Callable[[Member], None] | None,
    ) -> None:
        self.task, self.store, self.dataset, self.machine = task, store, dataset, machine
        self.taught, self.pulse, self.on_finish = taught, pulse, on_finish

    def failed(self, trial: Trial, error: BaseException) -> None:
        """Record a trial that could not even be built."""
        looks = self.task.looks
        if isinstance(error, NotApplicable):
            status, detail = "inapplicable", str(error)
        else:
            status, detail = "crashed", described(error)
        plugins = planned(foreign(trial))
        self._put(
            trial, build_record(trial, status, detail=detail, numerics=self.machine, plugins=plugins, looks=looks)
        )

    def ended(self, member: Member, outcome: Outcome, account: Account) -> None:
        """Record how ``member`` ended; a finished one of whose network no account can be given has crashed."""
        found: dict[str, Any] = {}
        predictions = None
        keeps: Callable[[], object] | None = None
        if outcome.status == "finished":
            try:
                selected = member.selected
                found = self._measured(member, account, selected)
                predictions = member.scoring.arrays()
                if self.task.weights and self.on_finish is None and selected is not None:
                    said = About.of(member.trial, self.dataset.spec)
                    keeps = partial(keep, self.store, found["selected_weights_sha256"], selected, said)
            except BaseException as error:  # other people's network: one that cannot even be counted
                if nobodys(error):
                    raise
                traceback.print_exc()
                outcome = Outcome("crashed", described(error))
        taught = self.taught if member.spec.needs_teacher else None
        record = build_record(
            member.trial,
            outcome.status,
            detail=outcome.detail,
            numerics=self.machine,
            curve=member.scoring.curve,
            teacher=None if taught is None else taught.facts.section(taught.teacher),
            warnings=self._warnings(member, taught),
            plugins=planned(foreign(member.trial)),
            attempts=self.task.attempt,
            resumed=member.resumed,
            looks=self.task.looks,
            **found,
        )
        if outcome.status == "finished" and self.on_finish is not None:
            self.on_finish(member)
        self._put(member.trial, record, predictions, keeps)

    def _measured(self, member: Member, account: Account, selected: Mapping[str, Tensor] | None) -> dict[str, Any]:
        """What a record has of a finished training alone."""
        last = weights_digest(member.deployed.state_dict())
        ranked = member.trial.protocol.selection != "last"
        return {
            "cost": account.section(member),
            "scores": member.scoring.scores(),
            "weights_sha256": last,
            "selected_weights_sha256": None if selected is None else weights_digest(selected) if ranked else last,
            "diagnostics": self._diagnosed(member) if member.trial.diagnostics else None,
        }

    def _diagnosed(self, member: Member) -> dict[str, Any]:
        """What the suite asks for beside the scores; null where this student has no such thing."""
        if "features" not in member.trial.diagnostics:
            return {}
        seen = self._sight if member.spec.needs_teacher else None
        if seen is None:
            return {"features": None}
        classes = self.dataset.spec.classes
        return {"features": features(member.method, member.network, seen, classes, member.device, self.pulse.beat)}

    @cached_property
    def _sight(self) -> Sight | None:
        """What of the teacher is compared with each student; None where it has logits alone."""
        if self.taught is None or isinstance(self.taught.network, Composed):
            return None
        network, data = self.taught.network, self.dataset
        device = next(network.parameters()).device
        return sight(network, data.test_images, data.test_labels, device, self.pulse.beat)

    def _warnings(self, member: Member, taught: ReadyTeacher | None) -> list[str]:
        found = list(self.task.warnings) + ([] if taught is None else taught.facts.warnings(taught.teacher))
        if member.trial.protocol.precision == "bf16" and not native(member.device):
            found.append(EMULATED)
        return found

    def _write(
        self, record: dict[str, Any], predictions: dict[str, Any] | None, keeps: Callable[[], object] | None
    ) -> None:
        """OSError also where the results folder is gone, with its disk, say: nothing is made in its place.

        What keeps the weights comes first, so that no record is without them.
        """
        if not self.store.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"the results folder {self.store.root} is gone")
        if keeps is not None:
            keeps()
        self.store.put(record, predictions)

    def _put(
        self,
        trial: Trial,
        record: dict[str, Any],
        predictions: dict[str, Any] | None = None,
        keeps: Callable[[], object] | None = None,
    ) -> None:
        self.pulse.patiently(partial(self._write, record, predictions, keeps), f"the record of {trial.title}")
        last = record["scores"]["last"]
        self.pulse(
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
