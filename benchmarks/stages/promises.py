"""Equal bits: the same trials alone, in a cohort, in other company, as CUDA graphs, and killed and resumed.

Trained as a worker does it, on noise. The one that is killed is a process of its own, and so is the one that resumes
it; both train beside all others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from limited import Running, Tell

from kdbench.canonical import digest
from kdbench.data import identify
from kdbench.jobs.worker import run as do
from kdbench.plan.expand import Selection, expand
from kdbench.plan.task import Task
from kdbench.records import Record, Store
from kdbench.suites import parse_suite
from kdbench.trials.trial import Trial
from stages import Say, Setting, hurry, noise

ROWS = ("ce", "kd", "dkd", "at", "crd")
#: Who else trains, in other company.
OTHERS = ("rkd", "fitnet")
#: The one that is killed.
KILLED = "kd"
TEXT = """
name = "promises"
version = 1
title = "Promises"
summary = "For a benchmark."
dataset = "noise"
seeds = [0]

[protocol]
epochs = 2
batch = {batch}
lr = 0.05
schedule = "cosine"

[teachers.tutor]
kind = "trained"
model = "{teacher}"
protocol = {{ epochs = 1 }}

[[pairs]]
teacher = "tutor"
student = "{student}"
"""

#: Label to what two trainings must agree in.
Bits = Mapping[str, str]


def run(setting: Setting, say: Say, until: float) -> None:
    noise.register(setting.pairs()[0].batch * (3 if setting.tiny else 12) + 2)
    hurry()
    shutil.rmtree(setting.work / "promises", ignore_errors=True)  # an earlier run's
    tried = _Tried(setting)
    main = Running(lambda tell, _: tried.each_way(tell), setting.log)
    try:
        told = main.heard(until)
        next(told)  # the teacher is ready
        resumed, figures = tried.killed_and_resumed(until)
        expected: Bits = {}
        for name, bits in told:
            if name == "alone":
                expected = bits
                _compare(say, "killed and resumed", expected, resumed, **figures)
            else:
                _compare(say, name, expected, bits)
    finally:
        main.kill()
    if main.ended and main.ended.status != "finished":
        raise RuntimeError(f"the trainings are incomplete: {main.ended.detail or main.ended.status}")


def _compare(say: Say, name: str, expected: Bits, found: Bits, **figures: Any) -> None:
    different = [label for label in expected if label in found and found[label] != expected[label]]
    compared = len(expected.keys() & found.keys())
    say(
        name, trials=compared, equal=bool(compared) and not different, different=", ".join(different) or None, **figures
    )


@dataclass(frozen=True)
class _Tried:
    """The same trials, trained in one way after the other, each with results of its own."""

    setting: Setting

    def trials(self, rows: Sequence[str]) -> list[Trial]:
        pair = self.setting.pairs()[0]
        text = TEXT.format(batch=pair.batch, teacher=pair.teacher, student=pair.student)
        named = "".join(f'[[methods]]\nname = "{row}"\n' for row in rows)
        content, _ = identify(noise.NAME)
        return expand(parse_suite(text + named, "promises"), Selection(), content)

    def task(self, name: str, trials: Sequence[Trial], cache: str = "cache", graphs: bool = False) -> Task:
        folder, (taught,) = self.setting.work / "promises", self.trials(["kd"])
        return Task(
            id=name,
            title=name,
            trials=tuple(trials),
            teacher=None if trials else taught.teacher,
            dataset=noise.NAME,
            data_digest=taught.data_digest,
            suite=taught.suite,
            results=folder / name,
            data_root=folder,
            cache=folder / cache,
            device=self.setting.device,
            graphs=graphs,
        )

    def train(self, name: str, trials: Sequence[Trial], cache: str = "cache", graphs: bool = False) -> Bits:
        task = self.task(name, trials, cache, graphs)
        do(task, lambda event: None)
        return _bits(task)

    def each_way(self, tell: Tell) -> None:
        """Tells that the teacher is ready, then the name and the bits of each way."""
        do(self.task("teacher", ()), lambda event: None)
        tell("ready")
        rows = self.trials(ROWS[:3] if self.setting.tiny else ROWS)
        for row in rows:
            bits = self.train("alone", [row])
        tell(("alone", bits))
        tell(("in a cohort", self.train("cohort", rows)))
        tell(("in other company", self.train("company", [*self.trials(OTHERS), *reversed(rows)])))
        if self.setting.graphs:
            tell(("as graphs, alone", self.train("graph", rows[1:2], graphs=True)))
            tell(("as graphs, in a cohort", self.train("graphs", rows, graphs=True)))

    def killed_and_resumed(self, until: float) -> tuple[Bits, dict[str, Any]]:
        """The bits of KILLED, and how it got there."""
        task = self.task("killed", self.trials([KILLED]), "killed-cache")
        shutil.copytree(self.task("", ()).cache / "teachers", task.cache / "teachers")
        dying = Running(partial(_dying, task), self.setting.log)
        died = next(dying.heard(until), None)
        dying.kill()
        resuming = Running(lambda tell, _: do(task, lambda event: None), self.setting.log)
        for _ in resuming.heard(until):
            pass
        records = Store(task.results).read()[0]
        return _bits(task), {"killed_in_epoch": died, "resumed": [r["provenance"]["resumed"] for r in records] == [1]}


def _dying(task: Task, tell: Tell, connection: Connection) -> None:
    """Train up to the end of an epoch, with a checkpoint after each step, and wait there to be killed."""
    os.environ["KDBENCH_CHECKPOINT_SECONDS"] = "0"

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            tell(event["epoch"] + 1)
            connection.recv()

    do(task, emit)


def _bits(task: Task) -> Bits:
    return {
        record["label"]: _digest(record) for record in Store(task.results).read()[0] if record["label"] != "teacher"
    }


def _digest(record: Record) -> str:
    curve = [{name: value for name, value in point.items() if name != "seconds"} for point in record["curve"]]
    return digest([record["key"], record["weights_sha256"], record["predictions"], record["scores"], curve])
