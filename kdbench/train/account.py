"""What the training of a cohort cost: the ``cost`` section of its records."""

from __future__ import annotations

import statistics
import traceback
from functools import cached_property
from typing import Any

import torch

from kdbench.data import Dataset
from kdbench.measure.cost import flops, parameters, peak_memory
from kdbench.measure.throughput import ceiling, throughput
from kdbench.models.facts import TRAINING
from kdbench.models.precision import native
from kdbench.train.lockstep import Lockstep
from kdbench.train.member import Member

#: Steps after which a training says how fast it is: the first ones are slow.
ENOUGH = 20


class Account:
    """The costs of a ``lockstep`` that has ended. What a kill threw away is not in them.

    FLOPs and throughput are measured once for all students, and for each method that deploys another network.
    """

    def __init__(self, lockstep: Lockstep, dataset: Dataset) -> None:
        self.lockstep, self.dataset = lockstep, dataset
        self.device = lockstep.members[0].device
        self._known: dict[str, tuple[int, dict[str, Any]]] = {}

    def section(self, member: Member) -> dict[str, Any]:
        """The cost section of ``member``, which finished."""
        lockstep, peak = self.lockstep, self._peak
        here = member.seconds_an_image
        own = member.seconds / member.images if member.images else None
        shared = lockstep.shared_work.seconds / max(lockstep.shared_images, 1)
        operations, speeds = self._of(member)
        tested = len(self.dataset.test_images)
        section = {
            "parameters": parameters(member.deployed),
            "flops": operations,
            "train_images_per_s": None if own is None else 1 / own,
            "train_images_per_s_shared": None if own is None else 1 / (own + shared),
            "inference_images_per_s": tested / member.scoring.seconds if member.scoring.seconds else None,
            "seconds": member.seconds,
            "peak_memory_bytes": peak,
            "cohort_size": len(lockstep.members),
            "ratio_to_ce": None if self._plain is None or here is None else here / self._plain,
            **speeds,
        }
        if speeds:
            work = TRAINING * member.spec.budget.views * self._student_flops / 1e9
            section["train_fraction"] = None if own is None else work / own / speeds["ceiling_gflops_per_s"]
        return section

    def plain_pace(self) -> tuple[float, int] | None:
        """Seconds an image of a training as plain as any here, and its forward FLOPs; None after too few steps."""
        members = self.lockstep.members
        enough = [m for m in members if m.images >= ENOUGH * m.trial.protocol.batch and m.seconds_an_image is not None]
        own = [m.seconds_an_image for m in enough if m.seconds_an_image is not None]
        seconds = self._plain or (statistics.median(own) if own else None)
        if seconds is None or not own:
            return None
        try:
            return seconds, self._student_flops
        except Exception:  # other people's network, whose records say what is wrong with it
            return None

    @cached_property
    def _peak(self) -> int:
        """Read before anything is measured that takes memory of its own."""
        return peak_memory(self.device)

    @cached_property
    def _plain(self) -> float | None:
        """Seconds an image of plain cross-entropy training: of the cohort's ``ce`` trial, else as its pace says.

        In this process alone, as another one may have met another load.
        """
        members, pace = self.lockstep.members, self.lockstep.pace
        plain = [m.seconds_an_image for m in members if m.trial.method == "ce"]
        timed = [seconds for seconds in plain if seconds is not None]
        return statistics.mean(timed) if timed else None if pace is None else pace.seconds_an_image

    @cached_property
    def _student_flops(self) -> int:
        return flops(self.lockstep.members[0].network, self.dataset.spec.image_shape)

    def _of(self, member: Member) -> tuple[int, dict[str, Any]]:
        """FLOPs of an image of what ``member`` deploys, and its speeds."""
        own = member.deployed is member.network
        name = "student" if own else member.trial.key
        if name not in self._known:
            operations = self._student_flops if own else flops(member.deployed, self.dataset.spec.image_shape)
            self._known[name] = operations, self._speeds(member, operations)
        return self._known[name]

    def _speeds(self, member: Member, operations: int) -> dict[str, Any]:
        """Inference, in float32, beside a reference network and against the ceiling; empty where it cannot be timed."""
        try:
            speed = throughput(member.deployed, self.dataset.spec.image_shape)
            most, trained = (ceiling(self.device, kind) for kind in (torch.float32, self._arithmetic(member)))
        except torch.AcceleratorError:
            raise
        except Exception:  # other people's code: what a network does with other batches costs no trial its record
            traceback.print_exc()
            return {}
        return {
            "inference_images_per_s_single": speed.by_batch[1],
            "inference_images_per_s_best": speed.best,
            "inference_best_batch": speed.best_batch,
            "inference_fraction": operations * speed.best / most,
            "reference_images_per_s": speed.reference,
            "ceiling_gflops_per_s": trained / 1e9,
        }

    def _arithmetic(self, member: Member) -> torch.dtype:
        """What the most of a training's products were computed in."""
        reduced = member.trial.protocol.precision == "bf16" and native(self.device)
        return torch.bfloat16 if reduced else torch.float32
