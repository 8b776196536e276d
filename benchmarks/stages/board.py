"""Rows of the suite cifar100 on resnet56:resnet20, one seed, 240 epochs: as many as there is time for.

The suite as it is where all its images and its teacher are at hand; else a suite of another name, ``cifar100-gpu``,
which says what is otherwise. How long a row takes is measured first, and steps are CUDA graphs where the first ones of
every row had the same bits in both ways. Each record goes into records.zip at once.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import part
from engine import Engine
from pairs import Pair

from kdbench import suites
from kdbench.data import DATASETS, Dataset, identify, load
from kdbench.errors import UserError
from kdbench.jobs.worker import run as do
from kdbench.measure.evaluate import logits_of
from kdbench.methods import METHODS
from kdbench.plan.cohorts import cohorts
from kdbench.plan.expand import Selection, expand
from kdbench.plan.task import Task
from kdbench.records import Store
from kdbench.suites import Suite, get_suite
from kdbench.teachers.weights import read_weights, weights_digest
from kdbench.trials.trial import Trial
from stages import Say, Setting, hurry

STUDENT, PRINTED = "resnet20", "resnet56:resnet20"
#: Steps that are compared in both ways and timed, of one student and of all together.
STEPS = 12
#: What a training takes beside its steps and its scoring, in seconds and as a share of these.
FIXED, SPARE = 10.0, 0.1
#: Of a tiny trial of this: rows, and what is otherwise in the protocol.
TINY_ROWS, TINY = 2, {"epochs": 1, "batch": 30, "milestones": ()}


@dataclass(frozen=True)
class Speed:
    """Seconds of a cohort's step, by students, and of a student's scoring."""

    graphs: bool
    shared_s: float
    student_s: float
    scoring_s: float

    def seconds(self, trials: Sequence[Trial], images: int) -> float:
        """What ``trials`` take together, in one cohort."""
        protocol = trials[0].protocol
        steps = -(-images // protocol.batch) * (self.shared_s + len(trials) * self.student_s)
        return FIXED + (1 + SPARE) * protocol.epochs * (steps + len(trials) * self.scoring_s)


def run(setting: Setting, say: Say, until: float) -> None:
    if setting.data is None:
        raise UserError("There is nothing to train on; give --data.")
    if setting.tiny:
        hurry()
    suite, trials, warnings = _planned(setting, setting.data)
    dataset = load(suite.dataset, setting.data)
    images = len(dataset.train_labels)
    say("data", suite=suite.id, images=images, title=dataset.spec.title, notes="; ".join([*suite.notes, *warnings]))
    task = _task(setting, setting.data, trials[0], warnings)
    taught = next((trial.teacher for trial in trials if trial.teacher), None)
    if taught is not None:
        do(replace(task, id="teacher", teacher=taught), lambda event: _tell(say, "teacher", event))
    speed = _measured(setting, say, dataset, trials)
    trained = 0
    for cohort in cohorts(trials):
        left = until - time.monotonic()
        fitting = [n for n in range(1, len(cohort.trials) + 1) if speed.seconds(cohort.trials[:n], images) < left]
        if not fitting:
            minutes = speed.seconds(cohort.trials[:1], images) / 60
            say("not trained", rows=len(trials) - trained, minutes_for_one_row=minutes, minutes_left=left / 60)
            break
        chosen = cohort.trials[: fitting[-1]]
        say(f"cohort of {len(chosen)}", planned_minutes=speed.seconds(chosen, images) / 60, graphs=speed.graphs)
        do(replace(task, trials=chosen, graphs=speed.graphs), lambda event: _landed(setting, say, event))
        trained += len(chosen)


def _planned(setting: Setting, data: Path) -> tuple[Suite, list[Trial], tuple[str, ...]]:
    """The suite, its trials of the first seed on the pair, and what is to be said of the data."""
    suite = get_suite(part.WHOLE)
    name = part.register(data).name if (data / part.FILE).is_file() else part.WHOLE
    digest, warnings = identify(name, data)
    found = part.teacher(data)
    own = found is not None and found[0] == suite.teachers[part.TEACHER]
    if name != part.WHOLE or warnings or not own or setting.tiny:
        suite = _other(setting, suite, name, None if found is None else found[0])
    teacher = part.TEACHER if found is None else found[0].name
    methods = [row.label for row in suite.rows if found or not METHODS.get(row.method).needs_teacher]
    pins = {}
    if found is not None and not found[0].weights_sha256:
        pins[teacher] = weights_digest(read_weights(found[1]))
        Store(setting.work / "results").pin(suite.name, teacher, pins[teacher])
    return suite, expand(suite, Selection((f"{teacher}:{STUDENT}",), tuple(methods), 1), digest, pins), warnings


def _other(setting: Setting, suite: Suite, dataset: str, teacher: Any) -> Suite:
    """``suite`` on ``dataset`` under ``teacher``, by a name of its own."""
    teacher = teacher or suite.teachers[part.TEACHER]
    protocol = replace(suite.protocol, **TINY) if setting.tiny else suite.protocol
    rows = suite.rows[:TINY_ROWS] if setting.tiny else suite.rows
    printed = (METHODS.get(row.method).pairs.get(PRINTED, {}) for row in rows)
    title = DATASETS.get(dataset).title
    return replace(
        suite,
        name="cifar100-gpu",
        title=f"{title}, in minutes on a GPU",
        dataset=dataset,
        protocol=protocol,
        teachers={teacher.name: teacher},
        pairs=(suites.Pair(f"{teacher.name}:{STUDENT}", teacher.name, STUDENT, protocol, dataset),),
        rows=tuple(replace(row, config={**own, **row.config}) for row, own in zip(rows, printed, strict=True)),
        notes=(f"Rows and protocol of the suite {suite.id} on {title}, under {teacher.name}.",),
    )


def _task(setting: Setting, data: Path, first: Trial, warnings: tuple[str, ...]) -> Task:
    return Task(
        id="board",
        title="board",
        trials=(),
        teacher=None,
        dataset=first.dataset,
        data_digest=first.data_digest,
        suite=first.suite,
        results=setting.work / "results",
        data_root=data,
        cache=setting.work / "cache",
        device=setting.device,
        warnings=warnings,
    )


def _measured(setting: Setting, say: Say, dataset: Dataset, trials: Sequence[Trial]) -> Speed:
    """How fast the first steps are, as CUDA graphs where those give the same bits."""
    methods = list(dict.fromkeys(trial.method for trial in trials))
    launched = _first_steps(setting, dataset, methods, graphs=False)
    chosen = launched
    if setting.graphs:
        replayed = _first_steps(setting, dataset, methods, graphs=True)
        equal = launched[1] == replayed[1]
        say("graphs", same_bits=equal, **vars(replayed[0]))
        chosen = replayed if equal else launched
    say("launched", **vars(launched[0]))
    return chosen[0]


def _first_steps(setting: Setting, dataset: Dataset, methods: Sequence[str], graphs: bool) -> tuple[Speed, list[str]]:
    """Their speed, and the digests of the students after them."""
    goes, steps = [], 3 if setting.tiny else STEPS
    pair = Pair(part.TEACHER, STUDENT, batch=2 if setting.tiny else 64, classes=dataset.spec.classes)
    for count in sorted({1, len(methods)}):
        engine = Engine(pair, dataset, setting.device)
        cohort = engine.cohort(methods[:count], graphs=graphs)
        for _ in range(3):
            engine.step(cohort)
        goes.append((count, setting.seconds(lambda engine=engine, cohort=cohort: engine.step(cohort), steps)))
    member = cohort.members[0]
    few = dataset.test_images[: 10 if setting.tiny else None]
    logits_of(member.shown(member.network), few, engine.device)
    began = setting.clock()
    logits_of(member.shown(member.network), few, engine.device)
    scoring = (setting.clock() - began) * len(dataset.test_labels) / len(few)
    each = max(0.0, (goes[-1][1] - goes[0][1]) / max(1, goes[-1][0] - 1))
    digests = [weights_digest(each.network.state_dict()) for each in cohort.members]
    return Speed(graphs, max(0.0, goes[0][1] - each), each, scoring), digests


def _landed(setting: Setting, say: Say, event: dict[str, Any]) -> None:
    """Say how far a row is; keep it once it is recorded."""
    if event["event"] == "epoch" and (event["epoch"] % 10 == 0 or event["epoch"] == 1):
        say(event["title"], epoch=event["epoch"], test_top1=event["test_top1"])
    elif event["event"] == "trial":
        say(event["title"], status=event["status"], test_top1=event["top1"], detail=event["detail"] or None)
        _keep(setting)


def _tell(say: Say, name: str, event: dict[str, Any]) -> None:
    if event["event"] == "teacher":
        say(name, test_top1=event["top1"], detail="; ".join(event["warnings"]) or None)


def _keep(setting: Setting) -> None:
    """All records so far, as a results folder in a file."""
    root, new = setting.work / "results", setting.out / "records.zip.new"
    Store(root).tidy()
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(root))
    new.replace(setting.out / "records.zip")
