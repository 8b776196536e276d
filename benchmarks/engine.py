"""kdbench's own training, a step at a time: what a worker does with a batch, for students of one pair."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from pairs import Pair

from kdbench.data import Dataset
from kdbench.models.folding import folded
from kdbench.models.precision import in_precision
from kdbench.train.compiling import compiled
from kdbench.train.conformance import Bench
from kdbench.train.crew import Crew, Streams
from kdbench.train.device import set_up
from kdbench.train.file_batches import make_batches
from kdbench.train.graphs import ReplayedMember, ReplayedNetwork
from kdbench.train.lockstep import Lockstep, Outcome, Saver, Shared
from kdbench.train.member import Member
from kdbench.train.pulse import Pulse

#: Eight methods that read logits alone.
SUITE = ("kd", "ttm", "wttm", "dkd", "dist", "nkd", "rld", "lskd(kd)")
#: More than anybody will time.
EPOCHS = 10_000


class Engine(Bench):
    """Cohorts of one pair, all on the same batches, each operation on one thread."""

    def __init__(self, pair: Pair, dataset: Dataset, device: str = "cpu") -> None:
        super().__init__("kd", pair.student, pair.teacher, dataset, set_up(device, 1), pair.batch)
        augmentation = "resized_crop_flip" if pair.in_files else "crop_flip"
        self.protocol = replace(self.protocol, epochs=EPOCHS, augmentation=augmentation)
        self.batches = make_batches(dataset, self.protocol, 0, 0, self.device)
        self._steps = count()
        self._ahead: dict[int, Future[Shared] | None] = {}

    def cohort(
        self,
        methods: Sequence[str],
        fold: bool = False,
        mode: str = "none",
        precision: str = "float32",
        cores: int = 1,
        graphs: bool = False,
    ) -> Lockstep:
        """Students of ``methods`` under one teacher on ``cores`` cores; ``mode`` is the protocol's ``compile``.

        ``graphs``: as CUDA graphs, as a Task with them is done.
        """
        teacher = self.network
        if fold:
            teacher = folded(teacher, self.teacher, self.dataset.spec.image_shape)
        teacher = compiled(in_precision(teacher, precision), mode)
        teacher = ReplayedNetwork(teacher) if graphs else teacher
        self.kind = ReplayedMember if graphs else Member
        self.protocol = replace(self.protocol, compile=mode, precision=precision)
        saver = Saver(Path(os.devnull), math.inf, {})
        members = [self.member(name) for name in methods]
        crew = Streams(self.device) if graphs and self.device.type == "cuda" else Crew(cores)
        return Lockstep(members, self.batches, teacher, saver, Pulse(lambda event: None), _ended, crew)

    def share(self, cohort: Lockstep) -> Shared:
        """The next batch, and what the teacher says of it."""
        return cohort._share(next(self._steps), cohort.members)

    def step(self, cohort: Lockstep) -> None:
        """Train every student of ``cohort`` on the next batch, as Lockstep does between two looks at the clock.

        With several cores the batch after it is made meanwhile; finish() waits for that.
        """
        ahead = self._ahead.get(id(cohort))
        shared = self.share(cohort) if ahead is None else ahead.result()
        self._ahead[id(cohort)] = cohort.crew.ahead(partial(self.share, cohort))
        cohort._step(0, cohort.members, shared, list(cohort.members))

    def finish(self, cohort: Lockstep) -> None:
        """Wait until nothing of ``cohort`` is under way."""
        ahead = self._ahead.get(id(cohort))
        if ahead is not None:
            ahead.result()


def _ended(member: Member, outcome: Outcome) -> None:
    raise RuntimeError(f"{member.trial.method} {outcome.status}: {outcome.detail}")
