"""What one call of ``run`` will do: which trials are missing, on which device, in how many slots, and what it costs."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdbench.data import DATASETS, data_root, download_allowed, identify
from kdbench.errors import DataError, UserError
from kdbench.methods import METHODS, leaves, load_class
from kdbench.paths import cache_dir
from kdbench.plan.cohorts import Cohort, cohorts
from kdbench.plan.cost import RATES, makespan, measured_rate
from kdbench.plan.expand import Selection, chosen_pairs, chosen_rows, expand, inapplicable
from kdbench.plan.tasks import longest_chain, make_tasks
from kdbench.plan.trial import Trial
from kdbench.plugins import SOURCES
from kdbench.records import Store, every_version
from kdbench.schedule.task import Task
from kdbench.suites import Suite, get_suite


@dataclass(frozen=True)
class Plan:
    """The trials a call asks for, those still missing, and the tasks that train them."""

    suite: Suite
    trials: list[Trial]
    missing: list[Trial]
    #: How many trials another version of the suite has recorded.
    taken_over: int
    added: list[str]
    inapplicable: list[tuple[str, str, str]]
    warnings: tuple[str, ...]
    device: str
    slots: int
    tasks: list[Task]


def make_plan(options: argparse.Namespace, store: Store) -> Plan:
    """Read the suite and the store; UserError for anything the user asked for that cannot be."""
    suite = get_suite(options.suite)
    if options.slots is not None and options.slots < 1:
        raise UserError(f"--slots must be at least 1, not {options.slots}.")
    selection = Selection(tuple(options.pair), tuple(options.method), options.seeds, options.train_teachers)
    root = data_root(options.data_root)
    digest, warnings = _identify(suite, root, options)
    trials = expand(suite, selection, digest, _pins(suite, selection, store, root, options.dry_run), SOURCES)
    missing = missing_trials(trials, store)
    taken = _taken_over(missing, store, options.dry_run)
    missing = [trial for trial in missing if trial.key not in taken]
    _check_plugins(missing)
    device = options.device if options.device != "auto" else "cuda" if gpus() else "cpu"
    slots = options.slots or _slots(device, suite)
    tasks = _tasks(missing, store, root, options.plugin, warnings, device, slots) if missing else []
    added = chosen_rows(suite, selection.methods)[1]
    unfit = inapplicable(suite, selection)
    return Plan(suite, trials, missing, len(taken), added, unfit, warnings, device, slots, tasks)


def _check_plugins(trials: Sequence[Trial]) -> None:
    """UserError where a plugin's method has no class to train with: said now, and not by each trial's record."""
    for name in {trial.method for trial in trials}:
        spec = METHODS.get(name)
        for part in leaves(spec):
            if METHODS.origin(part.name) != "kdbench":
                load_class(part)


def missing_trials(trials: Sequence[Trial], store: Store) -> list[Trial]:
    """The trials that no record in the store has finished."""
    done = store.done((trial.key for trial in trials), trials[0].suite) if trials else set()
    return [trial for trial in trials if trial.key not in done]


def _taken_over(missing: Sequence[Trial], store: Store, dry: bool) -> set[str]:
    """Keys of the ``missing`` that another version of the suite has recorded; unless ``dry``, it has them now, too."""
    if not missing:
        return set()
    suite = missing[0].suite
    if dry:
        return store.done((trial.key for trial in missing), every_version(suite))
    places = {trial.key: {"suite": suite, "label": trial.label, "pair": trial.pair} for trial in missing}
    return store.take_over(places, suite)


def diverged_trials(trials: Sequence[Trial], store: Store) -> list[Trial]:
    """The trials whose record says that they diverged."""
    statuses = store.statuses((trial.key for trial in trials), trials[0].suite)
    return [trial for trial in trials if statuses.get(trial.key) == "diverged"]


def say_plan(plan: Plan, store: Store, verbose: bool) -> None:
    """Print what will be trained and what was found done."""
    done = len(plan.trials) - len(plan.missing)
    print(f"{plan.suite.id}: {len(plan.trials)} trials, {done} recorded in {store.root}, {len(plan.missing)} to train.")
    if plan.taken_over:
        print(f"  {plan.taken_over} of the recorded ones are trials of another version of the suite as well.")
    for note in plan.suite.notes:
        print(f"  {note}")
    for name in plan.added:
        print(f"  {name} is not in {plan.suite.id}; it was added because --method names it exactly.")
    for label, pair, reason in plan.inapplicable:
        print(f"  {label} is not applicable to {pair}: {reason}.")
    for warning in plan.warnings:
        print(f"  warning: {warning}")
    if not plan.missing:
        print("  Nothing to do: every trial of the selection is recorded.")
        return
    total = max(makespan([task.cost for task in plan.tasks], plan.slots), longest_chain(plan.tasks))
    groups = cohorts(plan.missing)
    slots = f"{plan.slots} {plan.device} slot{'s' * (plan.slots > 1)}"
    print(f"  {len(groups)} cohort{'s' * (len(groups) != 1)} on {slots}, about {duration(total)}.")
    if len(groups) < len(plan.missing):
        print(f"  {_shared(groups)}")
    if verbose:
        for task in plan.tasks:
            labels = ", ".join(dict.fromkeys(trial.label for trial in task.trials))
            print(f"  {task.title:<40} about {duration(task.cost):>8}  {labels}".rstrip())


def _shared(groups: Sequence[Cohort]) -> str:
    """What the trials of a cohort have in common, and how often it would be made without that."""
    trials = [trial for group in groups for trial in group.trials]
    text = f"Batches are made once a cohort, {len(groups)} times instead of {len(trials)}"
    taught = sum(group.teacher is not None for group in groups)
    pupils = sum(trial.teacher is not None for trial in trials)
    return f"{text}, and seen by a teacher {taught} times instead of {pupils}." if taught < pupils else f"{text}."


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _identify(suite: Suite, root: Path, options: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """The data set's digest and warnings; a dry run without the data plans with the official digest."""
    try:
        return identify(suite.dataset, root, download_allowed(options.download) and not options.dry_run)
    except DataError as error:
        official = DATASETS.get(suite.dataset).digest or "0" * 64
        if options.dry_run:
            return official, (f"{error} This plan assumes the official data set.",)
        raise


def _pins(suite: Suite, selection: Selection, store: Store, root: Path, dry: bool) -> dict[str, str]:
    """The recorded digests of the suite's checkpoint teachers that it does not pin; a first use is recorded here."""
    pins = store.pins(suite.name)
    rows, _ = chosen_rows(suite, selection.methods)
    if selection.train_teachers or not any(METHODS.get(row.method).needs_teacher for row in rows):
        return pins
    for pair in chosen_pairs(suite, selection.pairs):
        teacher = suite.teachers[pair.teacher]
        if teacher.kind != "checkpoint" or teacher.weights_sha256 or teacher.name in pins:
            continue
        if dry:
            pins[teacher.name] = "0" * 64
            continue
        from kdbench.teachers.find import find_checkpoint
        from kdbench.teachers.weights import read_weights, weights_digest

        pins[teacher.name] = weights_digest(read_weights(find_checkpoint(teacher, root)))
        store.pin(suite.name, teacher.name, pins[teacher.name])
    return pins


@cache
def gpus() -> tuple[str, ...]:
    """The CUDA devices to use: those made visible by the user, else all that nvidia-smi lists.

    Asked of the driver, as importing torch takes seconds that a no-op run does not have.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()
    count = sum(line.startswith("GPU ") for line in run.stdout.splitlines()) if run.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count or visible is None:
        return tuple(str(number) for number in range(count))
    return tuple(name.strip() for name in visible.split(",") if name.strip() and not name.strip().startswith("-"))


def _slots(device: str, suite: Suite) -> int:
    if device == "cuda":
        return max(len(gpus()), 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // suite.protocol.threads, 1)


def _tasks(
    missing: Sequence[Trial],
    store: Store,
    root: Path,
    plugins: Sequence[str],
    warnings: tuple[str, ...],
    device: str,
    slots: int,
) -> list[Task]:
    first = missing[0]
    template = Task(
        id="",
        title="",
        trials=(),
        teacher=None,
        dataset=first.dataset,
        data_digest=first.data_digest,
        suite=first.suite,
        results=store.root.absolute(),
        data_root=root.absolute(),
        cache=cache_dir(),
        device=device,
        plugins=tuple(str(Path(file).resolve()) for file in plugins),
        warnings=warnings,
    )
    rate = measured_rate(store.read()[0], missing, device) or RATES[device]
    devices = max(len(gpus()), 1) if device == "cuda" else 1
    return make_tasks(cohorts(missing), template, rate, slots, devices)
