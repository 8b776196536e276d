"""A bench to plan and train tiny trials on, in the test's own process, and the suites and plugins they come from."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from kdbench import plugins
from kdbench.canonical import digest
from kdbench.composition import COMPOSITIONS
from kdbench.data import DATASETS, identify
from kdbench.jobs.worker import run
from kdbench.methods import METHODS
from kdbench.models import MODELS, ModelSpec
from kdbench.models.kernels import COMPILERS
from kdbench.plan.cohorts import cohorts
from kdbench.plan.expand import Selection, expand
from kdbench.plan.task import Task
from kdbench.records import Record, Store
from kdbench.records.results import fold
from kdbench.registry import Registry
from kdbench.schedule import Report, Watch
from kdbench.suites import PAIRS, SUITES, TEACHERS, Suite, get_suite
from kdbench.supervision import SUPERVISIONS
from kdbench.trials.origins import Plugin
from kdbench.trials.trial import Trial

#: The checkout that these tests belong to, whose kdbench they test.
ROOT = Path(__file__).resolve().parents[1]

#: Whether kdbench's C code can be built here. A machine without a C compiler does everything else.
C_COMPILER = any(map(shutil.which, [os.environ.get("CC", ""), *COMPILERS]))
#: Seconds that are waited for what must happen, however busy the machine is.
PATIENCE = 300.0
#: 1,200 training images in batches of 200.
STEPS = 6
#: What most trainings of the tests are of: no teacher, its logits, its maps.
METHOD_ROWS = ("ce", "kd", "fitnet")


def suite_text(
    methods: Sequence[str | dict[str, Any]] = ("ce", "kd", "fitnet"),
    *,
    name: str = "tiny",
    epochs: int = 2,
    batch: int = 200,
    seeds: Sequence[int] = (0,),
    teacher: str = "",
    student: str = "tiny_cnn_s",
    extra: str = "",
) -> str:
    """The TOML of a suite on digits that trains in a moment. ``methods`` are names, or tables with name and more."""
    rows = [{"name": row} if isinstance(row, str) else row for row in methods]
    tables = "\n".join("[[methods]]\n" + "\n".join(f"{k} = {_toml(v)}" for k, v in row.items()) for row in rows)
    return f"""
name = "{name}"
version = 1
title = "Tiny"
summary = "For tests."
dataset = "digits"
seeds = {list(seeds)}

[protocol]
epochs = {epochs}
batch = {batch}
lr = 0.1
schedule = "onecycle"
augmentation = "crop"
pad = 1
holdout = 97

[teachers.tutor]
{teacher or TRAINED}

[[pairs]]
teacher = "tutor"
student = "{student}"

{tables}
{extra}
"""


TRAINED = 'kind = "trained"\nmodel = "tiny_cnn_s"\nseed = 100\nprotocol = {epochs = 1}'


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def plugin_text(name: str, loss: str = "", setup: str = "", needs: Sequence[str] = (), top: str = "") -> str:
    """The source of a plugin file ``<name>_plugin.py``: cross-entropy, with ``loss`` and ``setup`` run before it."""
    return f"""
import os, sys
import torch
from torch.nn import functional as F
from kdbench.methods import spec_from
from kdbench.methods.base import Method

{top}

class Own(Method):
    def setup(self, student, teacher, data):
        {setup or "pass"}

    def loss(self, step):
        terms = {{"ce": F.cross_entropy(step.student.logits.float(), step.y)}}
        {loss or "pass"}
        return terms

SPEC = spec_from({{
    "name": "{name}", "title": "{name}", "version": 1, "family": "baseline", "summary": "For tests.",
    "implementation": "{name}_plugin:Own", "needs": {list(needs)!r}, "terms": {{"ce": "task"}},
    "paper": {{"title": "t", "authors": "a", "venue": "v", "year": 2020, "url": "https://example.org", "bibtex": "b"}},
}}, "{name}_plugin.py")
"""


#: A method that uses all of the contract: a look at the training set, two phases, parameters with their own rate.
PHASED: dict[str, Any] = {
    "needs": ["teacher"],
    "top": "from kdbench.methods.base import ParameterGroup, Phase",
    "setup": """
        self.scale = torch.nn.Parameter(torch.randn(data.classes))
        self.register_buffer("centre", torch.zeros(data.classes))

    def prepare(self, sweep):
        for outputs, y, index in sweep():
            self.centre += outputs.logits.sum(0) / 1200

    def phases(self):
        return (
            Phase("imitate", 120, self.imitate, student=False),
            Phase("student", 120, self.first, method=False, rate=0.5),
        )

    def parameter_groups(self):
        return (ParameterGroup((self.scale,), rate=0.1, weight_decay=0.0),)

    def imitate(self, step):
        return {"ce": F.mse_loss(self.scale * step.student.logits, step.taught.logits)}

    def first(self, step):
        return {"ce": F.cross_entropy(self.scale * step.student.logits, step.y)}
""",
    "loss": "terms['ce'] = terms['ce'] + (self.scale * step.student.logits - self.centre).square().mean()",
}


@contextmanager
def registries_kept() -> Iterator[None]:
    """Whatever a block registers is forgotten at its end."""
    registries = (METHODS, MODELS, DATASETS, SUITES, TEACHERS, PAIRS, SUPERVISIONS, COMPOSITIONS)
    tables = [table for registry in registries for table in (registry._items, registry._origins)]
    tables += [plugins._files, plugins._packages]
    before = [dict(table) for table in tables]
    loaded, modules = set(plugins._loaded), set(sys.modules)
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
        METHODS._composed.cache_clear()
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).endswith("_plugin.py"):
                del sys.modules[name]


def made_foreign(registry: Registry[Any], name: str, sha256: str) -> None:
    """From now on ``name`` is of a plugin whose file has this digest."""
    registry._origins[name] = f"plugin {name}_plugin.py"
    plugins._files[f"{name}_plugin.py"] = Plugin(f"{name}_plugin.py", sha256, path=f"/{name}_plugin.py")


@dataclass
class Bench:
    """Folders for results, cache and data, and the ways to train into them."""

    folder: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    cores: int = 1
    #: Whether files are damaged on purpose, which stay where they are and are named.
    damaged: bool = False

    @property
    def store(self) -> Store:
        return Store(self.folder / "results")

    def again(self, name: str) -> Bench:
        """A bench with results and cache of its own: nothing of this one is found there."""
        return Bench(self.folder / name)

    def plugin(self, name: str, **parts: Any) -> str:
        path = self.folder / f"{name}_plugin.py"
        path.write_text(plugin_text(name, **parts), encoding="utf-8")
        return str(path)

    def trials(self, suite: Suite, *methods: str, seeds: int | None = None) -> list[Trial]:
        data_digest, _ = identify(suite.dataset, self.folder / "data")
        return expand(suite, Selection((), methods, seeds), data_digest, self.store.pins(suite.name))

    def template(self, trial: Trial, plugins: Sequence[str] = ()) -> Task:
        return Task(
            id="task",
            title="task",
            trials=(),
            teacher=None,
            dataset=trial.dataset,
            data_digest=trial.data_digest,
            suite=trial.suite,
            results=self.folder / "results",
            data_root=self.folder / "data",
            cache=self.folder / "cache",
            device="cpu",
            plugins=tuple(
                Plugin(Path(file).name, sha256(Path(file).read_bytes()).hexdigest(), path=file) for file in plugins
            ),
            cores=self.cores,
        )

    def tasks(self, trials: Sequence[Trial], plugins: Sequence[str] = ()) -> list[Task]:
        """One task a cohort, in the order of ``trials``, each behind its teacher's."""
        made: dict[str, Task] = {}
        for cohort in cohorts(trials):
            task = dataclasses.replace(
                self.template(trials[0], plugins), id=f"cohort-{cohort.id}", title=cohort.title, trials=cohort.trials
            )
            for teacher in cohort.teacher.lineage if cohort.teacher else ():
                name = f"teacher-{digest(dataclasses.asdict(teacher))[:8]}"
                made[name] = dataclasses.replace(
                    task, id=name, title=name, trials=(), teacher=teacher, after=task.after
                )
                task = dataclasses.replace(task, after=(name,))
            made[task.id] = task
        return list(made.values())

    def train(self, trials: Sequence[Trial], plugins: Sequence[str] = ()) -> dict[str, Record]:
        """Train ``trials`` here and now; the records by label."""
        for task in self.tasks(trials, plugins):
            run(task, self.events.append)
        return self.records()

    def records(self) -> dict[str, Record]:
        """The students' records by label, each the result of its trial; every file must be sound unless ``damaged``."""
        records, problems = self.store.read()
        assert self.damaged or not problems
        records, refused = fold(records)
        assert not refused
        return {record["label"]: record for record in records if record["label"] != "teacher"}

    def install(self, **entry_points: dict[str, str]) -> Path:
        """A folder for PYTHONPATH that looks like an installed package; ``entry_points``: group -> name -> value."""
        folder = self.folder / "site-packages"
        info = folder / "kdbench_test-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kdbench-test\nVersion: 1\n")
        groups = (
            f"[kdbench.{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in entry_points.items()
        )
        (info / "entry_points.txt").write_text("".join(groups))
        return folder

    def install_suite(self, text: str, name: str = "tiny") -> Path:
        folder = self.install(suites={name: "own_suite:TEXT"})
        (folder / "own_suite.py").write_text(f"TEXT = {text!r}\n", encoding="utf-8")
        return folder

    def environment(self, *paths: Path, **variables: str) -> dict[str, str]:
        """For a subprocess: this bench's folders, the kdbench under test, and ``paths`` to import from."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])),
            "KDBENCH_CACHE": str(self.folder / "cache"),
            "KDBENCH_DATA": str(self.folder / "data"),
            **variables,
        }


class InlineExecutor:
    """A backend that runs every task in this process: all of a run but the processes."""

    def __init__(self, slots: int, folder: Path, **_: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report:
        from kdbench.errors import UserError

        report = Report()
        waiting = list(tasks)
        while waiting:
            task = waiting.pop(0)
            watch(task, {"event": "started", "slot": 0, "pid": os.getpid(), "attempt": task.attempt})
            before = next((report.failed[name] for name in task.after if name in report.failed), "")
            reason, refused = before, False
            try:
                with (self.folder / "log").open("a") as log, redirect_stderr(log):
                    reason or run(task, lambda event, task=task: watch(task, event))  # type: ignore[misc]
            except UserError as error:
                reason, refused = str(error), True
            except Exception as error:
                reason = f"{task.title}: {error}"
            if before and (alone := task.without_teacher()) is not None:
                waiting.append(alone)
            if reason:
                report.failed[task.id] = reason
            else:
                report.finished.append(task)
            failure = {"event": "failed", "text": reason, "refused": refused, "dependent": bool(before)}
            watch(task, failure if reason else {"event": "ended"})
        return report


def same_bits(one: Record, other: Record) -> bool:
    """Whether two records tell of one training: weights, predictions, scores, and the curve but for its seconds."""

    def bits(record: Record) -> list[Any]:
        curve = [{k: v for k, v in point.items() if k != "seconds"} for point in record["curve"]]
        return [record["key"], record["weights_sha256"], record["predictions"]["sha256"], record["scores"], curve]

    return bits(one) == bits(other)


def first_digits() -> list[Path]:
    """The committed records of digits of its own rows, as each was recorded first: three seeds, one machine."""
    own = {row.label for row in get_suite("digits").rows}
    first: dict[str, tuple[str, Path]] = {}
    for path in (ROOT / "results" / "v1" / "digits@1").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["label"] in own:
            made = (record["provenance"]["created"], path)
            first[record["key"]] = min(first.get(record["key"], made), made)
    return sorted(path for _, path in first.values())


def copy_first_digits(results: Path) -> None:
    """Put them into the folder ``results``."""
    folder = results / "v1" / "digits@1"
    folder.mkdir(parents=True)
    for path in first_digits():
        shutil.copy(path, folder)


def wait_until(happened: Callable[[], Any]) -> Any:
    """The first true value of ``happened``; without patience the test fails."""
    import time

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := happened():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE:.0f} s")


def add_drop_net() -> None:
    """Register ``drop_net`` as a model."""
    MODELS.add("drop_net", ModelSpec("drop_net", "small", "For tests.", "bench:drop_net", 8), "test")


def drop_net(classes: int, image_shape: tuple[int, int, int]) -> Any:
    """A tiny network with dropout, which draws from torch's global generator at every step."""
    from torch import nn

    from kdbench.models.small import tiny_cnn

    network = tiny_cnn(classes, image_shape, (4, 4, 8), 1)
    network.fc = nn.Sequential(nn.Dropout(0.3), network.fc)
    return network
