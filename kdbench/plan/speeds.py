"""How fast a slot of this machine trains: as records say, as earlier trainings here have left it, or as a probe finds.

Everything here serves estimates; no result depends on it. Imports no torch.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.canonical import digest
from kdbench.environment import pinned
from kdbench.folders import write_atomically
from kdbench.models.facts import TRAINING
from kdbench.protocol import Protocol

#: GFLOP/s where nothing better is known: thin float32 convolutions on one CPU core, or a GPU.
RATES = {"cpu": 40.0, "cuda": 8000.0}
#: Seconds of a training step that no arithmetic explains: launching its operations. It is what tiny networks cost.
STEP_SECONDS = 0.004
#: Seconds of a training, at RATES, from which on it is worth a probe, which takes a few.
WORTH_PROBING = 60.0
#: Steps of a training are like those of another one that has up to so many times their arithmetic, or they its.
LIKE = 8.0
#: Seconds that a probe may take, the start of its process included.
PATIENCE = 120.0


@dataclass(frozen=True)
class Speed:
    """``gflops`` a second of a training's arithmetic, and the seconds of each ``step`` beside it."""

    gflops: float
    step: float = STEP_SECONDS


@dataclass(frozen=True)
class Recipe:
    """What of a protocol decides how fast a network computes."""

    precision: str = "float32"
    compile: str = "none"

    @classmethod
    def of(cls, protocol: Protocol | None) -> Recipe:
        return cls() if protocol is None else cls(protocol.precision, protocol.compile)


@dataclass(frozen=True)
class Training:
    """What is to be told the speed of: ``gflop`` in all, and of each ``step``, which small ones are slow at."""

    student: str
    dataset: str
    recipe: Recipe
    gflop: float
    step: float


def reached(image: float, flops: float, batch: int) -> float:
    """GFLOP/s of a training that took ``image`` seconds an image of ``flops`` a forward pass, in steps of ``batch``."""
    arithmetic = image - STEP_SECONDS / batch
    return TRAINING * flops / 1e9 / max(arithmetic, image / 10)


def step_gflop(flops: float, batch: int) -> float:
    """Arithmetic of a step on ``batch`` images of ``flops`` a forward pass."""
    return TRAINING * flops * batch / 1e9


class Speeds:
    """What is known of trainings on a ``device``, ``cpu`` or ``cuda``; each is told the best there is for it.

    ``folder``: where what was measured here is remembered. ``here``: whether the device is this machine's, which can be
    probed.
    """

    def __init__(
        self, device: str, records: Iterable[Mapping[str, Any]], folder: Path, threads: int = 1, here: bool = True
    ) -> None:
        self.device, self.folder, self.threads, self.here = device, folder, threads, here
        self._recorded = [_of_record(record) for record in records if _timed_on(record, device)]
        self._known: dict[Hashable, Speed] = {}

    def of(self, training: Training) -> Speed:
        """The speed of ``training``."""
        worth = training.gflop / RATES[self.device] >= WORTH_PROBING
        key = training.student, training.dataset, training.recipe, training.step, worth
        if key not in self._known:
            self._known[key] = self._best(training, worth)
        return self._known[key]

    def _best(self, training: Training, worth: bool) -> Speed:
        """From what is most like it to what is least: of the same student here, and then of steps about as large."""
        for measured in (self._recorded, self._kept):
            if rates := [one.gflops for one in measured if one.is_of(training)]:
                return Speed(statistics.median(rates))
        for measured in (self._recorded, self._kept):
            if rates := [one.gflops for one in measured if one.is_like(training)]:
                return Speed(statistics.median(rates))
        found = probed(self.folder, self.device, training.recipe, self.threads) if worth and self.here else None
        return found or Speed(RATES[self.device])

    @cached_property
    def _kept(self) -> list[Measured]:
        """Of trainings on this machine, in any results folder."""
        found = []
        for path in sorted(self.folder.glob("speed-*.json")):
            with suppress(OSError, ValueError, TypeError, KeyError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if content.pop("device") == self.device:
                    found.append(Measured(**{**content, "recipe": Recipe(**content["recipe"])}))
        return found


@dataclass(frozen=True)
class Measured:
    """The GFLOP/s that trainings of ``student`` on ``dataset`` have reached, in steps of ``step`` GFLOP."""

    student: str
    dataset: str
    recipe: Recipe
    step: float
    gflops: float

    def is_of(self, training: Training) -> bool:
        return (self.student, self.dataset, self.recipe) == (training.student, training.dataset, training.recipe)

    def is_like(self, training: Training) -> bool:
        return self.recipe == training.recipe and 1 / LIKE <= self.step / max(training.step, 1e-12) <= LIKE


def _timed_on(record: Mapping[str, Any], device: str) -> bool:
    cost, numerics = record["cost"], record["numerics"]
    return bool(cost and numerics and numerics["device"] == device and cost["train_images_per_s"] is not None)


def _of_record(record: Mapping[str, Any]) -> Measured:
    cost, protocol = record["cost"], record["identity"]["protocol"]
    recipe = Recipe(protocol.get("precision", "float32"), protocol.get("compile", "none"))
    rate = reached(1 / cost["train_images_per_s"], cost["flops"], protocol["batch"])
    step = step_gflop(cost["flops"], protocol["batch"])
    return Measured(record["student_model"], record["dataset"], recipe, step, rate)


Rate = float | Speeds


def speed_of(rate: Rate, training: Training) -> Speed:
    """Of ``training``, and of any where ``rate`` is a number of GFLOP/s."""
    return rate.of(training) if isinstance(rate, Speeds) else Speed(rate)


def keep(folder: Path, device: str, measured: Measured) -> None:
    """Remember in ``folder`` how fast a cohort has trained here; where that cannot be written, it is not."""
    name = digest([device, measured.student, measured.dataset, asdict(measured.recipe)])[:20]
    with suppress(OSError):
        write_atomically(folder / f"speed-{name}.json", json.dumps({"device": device, **asdict(measured)}).encode())


def probed(folder: Path, device: str, recipe: Recipe, threads: int) -> Speed | None:
    """What a few steps of a small network reach here, timed once and remembered; None where that cannot be.

    In a process of its own, with a worker's environment: this one needs no torch, and is not to hold a GPU.
    """
    place = folder / f"probe-{digest([device, asdict(recipe), threads])[:20]}.json"
    with suppress(OSError, ValueError, TypeError):
        return Speed(**json.loads(place.read_text(encoding="utf-8")))
    command = [sys.executable, "-m", "kdbench.train.speed", device, recipe.precision, recipe.compile, str(threads)]
    variables = {**pinned(os.environ), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    try:
        ended = subprocess.run(command, capture_output=True, env=variables, timeout=PATIENCE, check=True)
        speed = Speed(**json.loads(ended.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None
    with suppress(OSError):
        write_atomically(place, json.dumps(asdict(speed)).encode())
    return speed
