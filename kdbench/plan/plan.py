"""What one call of ``run`` will do: which trials are missing, and the tasks that train them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.data import DATASETS, identify
from kdbench.errors import DataError, UserError
from kdbench.methods import METHODS, leaves, load_class
from kdbench.models import MODELS
from kdbench.paths import cache_dir
from kdbench.plan.cohorts import cohorts
from kdbench.plan.cost import RATES, measured_rate
from kdbench.plan.expand import Selection, chosen_pairs, chosen_rows, expand, inapplicable
from kdbench.plan.task import Task
from kdbench.plan.tasks import make_tasks
from kdbench.plugins import SOURCES
from kdbench.records import Store, every_version
from kdbench.records.pins import bring_over_pins
from kdbench.records.provenance import source_digest
from kdbench.registry import OURS
from kdbench.suites import Suite
from kdbench.trials.trial import Trial


@dataclass(frozen=True)
class Machine:
    """What tasks are cut to: the kind of device, the slots, and the GPUs by name (none on a CPU)."""

    device: str
    slots: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is asked for: a selection of a suite on data under ``data_root``. ``dry``: nothing is fetched or written.

    ``looks``: the numbers of seeds at which it is decided whether to add some, where that is done at all.
    """

    suite: Suite
    selection: Selection
    data_root: Path
    download: bool = False
    dry: bool = False
    looks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The trials a request asks for, those still missing, and the tasks that train them."""

    suite: Suite
    trials: list[Trial]
    missing: list[Trial]
    #: How many trials another version of the suite has recorded.
    taken_over: int
    added: list[str]
    inapplicable: list[tuple[str, str, str]]
    warnings: tuple[str, ...]
    machine: Machine
    tasks: list[Task]


def make_plan(request: Request, store: Store, machine: Machine) -> Plan:
    """The plan that does what is asked for and not recorded; UserError for anything that cannot be."""
    suite, selection = request.suite, request.selection
    digest, warnings = _identify(request)
    trials = expand(suite, selection, digest, _pins(request, store), SOURCES)
    left_out = inapplicable(suite, selection)
    if not trials:
        label, pair, reason = left_out[0]
        raise UserError(f"{suite.id}: nothing of the selection can be trained; {label} on {pair}, say: {reason}.")
    missing = missing_trials(trials, store)
    taken = _taken_over(missing, store, request.dry)
    missing = [trial for trial in missing if trial.key not in taken]
    _check_code(missing)
    tasks = _tasks(missing, request, store, warnings, machine) if missing else []
    added = chosen_rows(suite, selection.methods)[1]
    return Plan(suite, trials, missing, len(taken), added, left_out, warnings, machine, tasks)


def _check_code(trials: Sequence[Trial]) -> None:
    """UserError where other people's method or network is not there to train with: said now, and not by each record."""
    for name in {part.name for trial in trials for part in leaves(METHODS.get(trial.method))}:
        if METHODS.origin(name) != OURS:
            load_class(METHODS.get(name))
    generations = (each for trial in trials if trial.teacher for each in trial.teacher.lineage)
    names = {trial.student for trial in trials} | {teacher.model for teacher in generations}
    for name in sorted(name for name in names if name not in MODELS or MODELS.origin(name) != OURS):
        from kdbench.models.factory import check_available  # torch, which built-in networks do not need to plan

        check_available(name)


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
    statuses = store.statuses((trial.key for trial in trials), trials[0].suite) if trials else {}
    return [trial for trial in trials if statuses.get(trial.key) == "diverged"]


def _identify(request: Request) -> tuple[str, tuple[str, ...]]:
    """The data set's digest and warnings; a dry run without the data plans with the official digest."""
    dataset = request.suite.dataset
    try:
        return identify(dataset, request.data_root, request.download and not request.dry)
    except DataError as error:
        official = DATASETS.get(dataset).digest or "0" * 64
        if request.dry:
            return official, (f"{error} This plan assumes the official data set.",)
        raise


def _pins(request: Request, store: Store) -> dict[str, str]:
    """The recorded digests of the suite's checkpoint teachers that it does not pin; a first use is recorded here."""
    suite, selection = request.suite, request.selection
    rows, _ = chosen_rows(suite, selection.methods)
    if selection.train_teachers or not any(METHODS.get(row.method).needs_teacher for row in rows):
        return {}
    if not request.dry:
        bring_over_pins(store.root)
    pins = store.pins(suite.name)
    for pair in chosen_pairs(suite, selection.pairs):
        teacher = suite.teachers[pair.teacher]
        if teacher.kind != "checkpoint" or teacher.weights_sha256 or teacher.name in pins:
            continue
        if request.dry:
            pins[teacher.name] = "0" * 64
            continue
        from kdbench.teachers.find import find_checkpoint
        from kdbench.teachers.weights import read_weights, weights_digest

        weights = weights_digest(read_weights(find_checkpoint(teacher, request.data_root)))
        store.pin(suite.name, teacher.name, weights)
        pins = store.pins(suite.name)  # UserError where another run has pinned it at the same time, to others
    return pins


def _tasks(
    missing: Sequence[Trial], request: Request, store: Store, warnings: tuple[str, ...], machine: Machine
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
        data_root=request.data_root.absolute(),
        cache=cache_dir(),
        device=machine.device,
        warnings=warnings,
        source=source_digest(),
        looks=request.looks,
    )
    rate = measured_rate(store.read()[0], missing, machine.device) or RATES[machine.device]
    return make_tasks(cohorts(missing), template, rate, machine.slots, max(len(machine.gpus), 1))
