"""What plain cross-entropy costs where no trial of the cohort is trained by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from kdbench.data import Dataset
from kdbench.methods import METHODS
from kdbench.train.batches import Batches
from kdbench.train.member import Member
from kdbench.train.stopwatch import Stopwatch
from kdbench.trials.trial import Trial

#: About so many steps are timed, spread over the training. Fewer than ENOUGH say nothing.
STEPS = 50
ENOUGH = 5
#: They end where they have taken SECONDS, unless that is less than SHARE of what the others' training took.
SECONDS = 2.0
SHARE = 0.03


class Pace:
    """The student of ``trial`` under ``ce``, stepped now and then among the others for its time alone.

    Its steps meet what the others' do, be it another process or the next batch being made. It leaves no record, and is
    not in checkpoints: a resumed training begins to count anew.
    """

    def __init__(self, trial: Trial, dataset: Dataset, batches: Batches, device: torch.device) -> None:
        ce = METHODS.get("ce")
        under = {"method": ce.name, "method_version": ce.version, "config": ce.config("", {}, "pace"), "teacher": None}
        plain = replace(trial, label="pace", plugin_sha256=None, **under)
        self.member = Member(plain, dataset, batches, device)
        self.every = max(1, batches.total_steps // STEPS)
        self.taken = 0

    def on(self, step: int, others: Sequence[Member]) -> Sequence[Member]:
        """Its student where that is to take ``step`` with the ``others``, nobody elsewhere."""
        if step < 0 or step % self.every:
            return ()
        if self.member.seconds > max(SECONDS, SHARE * sum(other.seconds for other in others)):
            return ()
        if self.taken == 1:  # the first was a warm-up
            self.member.watch, self.member.images = Stopwatch(self.member.device), 0
        self.taken += 1
        self.member.position = step
        return (self.member,)

    @property
    def seconds_an_image(self) -> float | None:
        """Of a plain step; None where too few were timed."""
        return self.member.seconds_an_image if self.taken > ENOUGH else None
