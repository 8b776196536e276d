"""What one call of ``run`` will do: which trials are missing, and the tasks that train them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kdbench.data import DATASETS, identify
from kdbench.errors import DataError, UserError
from kdbench.methods import METHODS
from kdbench.paths import cache_dir
from kdbench.plan.assistants import with_students
from kdbench.plan.checks import check_code, check_lone_images
from kdbench.plan.cohorts import Cohort, cohorts
from kdbench.plan.cost import weights_bytes
from kdbench.plan.cut import fitted, landing
from kdbench.plan.expand import Selection, chosen_pairs, chosen_rows, expand, inapplicable, matched, with_pairs
from kdbench.plan.fleet import Fleet
from kdbench.plan.memory import Needs
from kdbench.plan.outdated import Outdated, outdated
from kdbench.plan.pins import pinned, starts, wanted
from kdbench.plan.speeds import Speeds
from kdbench.plan.task import Task
from kdbench.plan.tasks import make_tasks
from kdbench.records import Store
from kdbench.records.listings import Place
from kdbench.records.provenance import source_digest
from kdbench.suites import Suite
from kdbench.trials.origins import foreign
from kdbench.trials.trial import Trial, teacher_trial


class Seat(NamedTuple):
    """Where a trial is in its suite, whatever code it runs: an edited plugin gives it another key and no other seat."""

    suite: str
    label: str
    pair: str
    seed: int


@dataclass(frozen=True)
class Request:
    """What is asked for: a selection of ``suites`` on data under ``data_root``. ``dry``: nothing is fetched or written.

    ``baselines``: stores whose records count as if they had been made here. ``within``: seconds in which each cohort is
    to land its records, so that a machine may go afterwards. ``again``: globs of labels whose rows are trained though
    they are recorded. ``looks``: the numbers of seeds at which it is decided whether to add some, where that is done at
    all. ``only``: the seats of the trials to which it is confined, where there are any. ``weights``: whether students
    are kept.
    """

    suites: tuple[Suite, ...]
    selection: Selection
    data_root: Path
    download: bool = False
    dry: bool = False
    baselines: tuple[Store, ...] = ()
    within: float | None = None
    again: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()
    only: frozenset[Seat] = frozenset()
    weights: bool = True


@dataclass(frozen=True)
class Plan:
    """The trials a request asks for, those still missing, each once, and the tasks that train them."""

    suites: tuple[Suite, ...]
    trials: list[Trial]
    missing: list[Trial]
    #: How many recorded trials a suite shows that were recorded under another one.
    listed: int
    #: How many trials came from a baseline.
    adopted: int
    #: Names of rows and pairs that were added to the suites.
    added: list[str]
    inapplicable: list[tuple[str, str, str]]
    warnings: tuple[str, ...]
    fleet: Fleet
    cohorts: list[Cohort]
    tasks: list[Task]
    #: Those of the missing that are recorded with other code of a plugin.
    outdated: list[Outdated]
    #: Keys of the missing that are recorded and trained again, with how many endings are on record.
    again: Mapping[str, int]
    #: Bytes of the students that are kept, about.
    weights: int = 0
    #: What trainings start from, in sentences.
    starts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The suites in a sentence."""
        return ", ".join(suite.id for suite in self.suites)


def make_plan(request: Request, store: Store, fleet: Fleet) -> Plan:
    """The plan that does what is asked for and not recorded; UserError for anything that cannot be."""
    selection = request.selection
    suites, added = with_pairs(request.suites, selection.pairs)
    store.check_current()
    suites = [with_students(suite, store) for suite in suites]
    data = {name: _identify(name, request) for suite in suites for name in suite.datasets}
    digests = {name: digest for name, (digest, _) in data.items()}
    trials = [trial for suite in suites for trial in expand(suite, selection, digests, _pins(suite, request, store))]
    left_out = [found for suite in suites for found in inapplicable(suite, selection)] if not request.only else []
    names = " and ".join(suite.id for suite in suites)
    if request.only:
        trials = [trial for trial in trials if seat(trial) in request.only]
        if not trials:
            raise UserError(f"{names}: what is to be tried again is planned otherwise by now; use kdbench run.")
    if not trials:
        label, pair, reason = left_out[0]
        raise UserError(f"{names}: nothing of the selection can be trained; {label} on {pair}, say: {reason}.")
    missing = missing_trials(trials, store)
    adopted = _adopted(missing, store, request)
    missing = [trial for trial in missing if trial.key not in adopted]
    older = outdated(missing, store.read()[0]) if any(map(foreign, missing)) else []
    again = _again(trials, missing, store, request.again)
    missing += {trial.key: trial for trial in trials if trial.key in again}.values()
    check_code(missing)
    check_lone_images(missing)
    lacking = _check_weights(missing, request, fleet)
    warnings = {name: said for name, (_, said) in data.items()}
    made, tasks = _tasks(missing, request, store, warnings, fleet) if missing else ([], [])
    tasks = [replace(task, again={t.key: again[t.key] for t in task.trials if t.key in again}) for task in tasks]
    added += dict.fromkeys(name for suite in suites for name in chosen_rows(suite, selection.methods)[1])
    listed = list_trials(trials, store, request.dry)
    said = tuple(dict.fromkeys([*lacking, *(text for texts in warnings.values() for text in texts)]))
    return Plan(
        suites=tuple(suites),
        trials=trials,
        missing=missing,
        listed=listed,
        adopted=len(adopted),
        added=added,
        inapplicable=left_out,
        warnings=said,
        fleet=fleet,
        cohorts=made,
        tasks=tasks,
        outdated=older,
        again=again,
        weights=sum(map(weights_bytes, missing)) if request.weights else 0,
        starts=tuple(starts(missing, request.data_root)),
    )


def seat(trial: Trial) -> Seat:
    """Where ``trial`` is in its suite."""
    return Seat(trial.suite, trial.label, trial.pair, trial.seed)


def list_trials(trials: Sequence[Trial], store: Store, dry: bool = False) -> int:
    """Show the recorded ones of ``trials`` under their suites, whichever recorded them; how many were not there."""
    places = ((trial.key, Place(trial.suite, trial.label, trial.pair)) for trial in trials)
    return store.list_under(places, dry)


def missing_trials(trials: Sequence[Trial], store: Store, again: Mapping[str, int] | None = None) -> list[Trial]:
    """The trials, each once, that no record has finished, whatever suite it was made for, or not ``again``."""
    once: dict[str, Trial] = {}
    for trial in trials:
        once.setdefault(trial.key, trial)
    done = store.done(once, again)
    return [trial for key, trial in once.items() if key not in done]


def _again(trials: Sequence[Trial], missing: Sequence[Trial], store: Store, globs: Sequence[str]) -> dict[str, int]:
    """Keys of the recorded ``trials`` whose label any of ``globs`` matches, with how many endings are on record."""
    if not globs:
        return {}
    labels = matched({trial.label for trial in trials}, globs, "row in what is asked for")
    keys = {trial.key for trial in trials if trial.label in labels} - {trial.key for trial in missing}
    return store.endings(keys)


def _adopted(missing: Sequence[Trial], store: Store, request: Request) -> set[str]:
    """Keys of the ``missing`` that a baseline has recorded.

    Unless it is dry, their records are in the ``store`` now, and with them those of the trainings of their teachers.
    """
    found: set[str] = set()
    for baseline in request.baselines:
        baseline.check_current()
        done = baseline.done(trial.key for trial in missing if trial.key not in found)
        for key, paths in baseline.paths(done).items() if not request.dry else ():
            adopted = [store.adopt_quietly(path, baseline) for path in paths]
            if not any(adopted):
                done.discard(key)
        if not request.dry:
            teachers = baseline.paths(key for trial in missing if trial.key in done for key in _trainings(trial))
            for path in (path for paths in teachers.values() for path in paths):
                store.adopt_quietly(path, baseline)
        found |= done
    return found


def _trainings(trial: Trial) -> list[str]:
    """The keys of the trainings of the teacher of ``trial``, and of those that stand behind it."""
    lineage = trial.teacher.lineage if trial.teacher else ()
    trained = [teacher for teacher in lineage if teacher.trained]
    return [teacher_trial(teacher, trial.dataset, trial.data_digest).key for teacher in trained]


def diverged_trials(trials: Sequence[Trial], store: Store) -> list[Trial]:
    """The trials whose record says that they diverged."""
    statuses = store.statuses(trial.key for trial in trials)
    return [trial for trial in trials if statuses.get(trial.key) == "diverged"]


def _identify(dataset: str, request: Request) -> tuple[str, tuple[str, ...]]:
    """The data set's digest and warnings; a dry run without the data plans with the official digest."""
    try:
        return identify(dataset, request.data_root, request.download and not request.dry)
    except DataError as error:
        official = DATASETS.get(dataset).digest or "0" * 64
        if request.dry:
            return official, (f"{error} This plan assumes the official data set.",)
        raise


def _pins(suite: Suite, request: Request, store: Store) -> dict[str, str]:
    """The recorded digests of the weights that the selection learns from, or starts from."""
    selection = request.selection
    rows, _ = chosen_rows(suite, selection.methods)
    pairs = chosen_pairs(suite, selection.pairs)
    named = [(pair.init, pair.dataset) for pair in pairs if pair.init is not None]
    taught = not selection.train_teachers and any(METHODS.get(row.method).needs_teacher for row in rows)
    if taught:
        lineages = [(one, pair.dataset) for pair in pairs for one in suite.teacher_of(pair).lineage]
        named += [(each, dataset) for one, dataset in lineages for each in one.imports]
    download = request.download and not request.dry
    return pinned(suite, named, request.data_root, store, request.dry, download) if named or taught else {}


def _check_weights(missing: Sequence[Trial], request: Request, fleet: Fleet) -> tuple[str, ...]:
    """What is wrong with published weights that are needed, in sentences; UserError where that is no dry run."""
    download = request.download and not request.dry
    lacking = tuple(dict.fromkeys(wanted(missing, request.data_root, fleet.kind, download)))
    if lacking and not request.dry:
        raise UserError(lacking[0])
    return lacking


def _tasks(
    missing: Sequence[Trial], request: Request, store: Store, warnings: Mapping[str, tuple[str, ...]], fleet: Fleet
) -> tuple[list[Cohort], list[Task]]:
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
        device=fleet.kind,
        source=source_digest(),
        within=request.within,
        looks=request.looks,
        weights=request.weights,
    )
    records = [record for record in store.read()[0] if record["evidence"] == "measured"]
    rate = Speeds(fleet.kind, records, cache_dir() / "costs", template.threads, here=not fleet.elsewhere)
    made = fitted(landing(cohorts(missing), rate, request.within), rate, fleet)
    tasks = make_tasks(made, template, rate, fleet, warnings)
    if fleet.kind == "cuda":
        needs = Needs()
        needs.read(records, missing)
        tasks = [replace(task, memory=needs.of(task)) for task in tasks]
    return made, tasks
