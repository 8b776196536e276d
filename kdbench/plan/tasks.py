"""From trials to the tasks a backend runs: teachers first, then the longest trainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heapreplace

from kdbench.canonical import digest
from kdbench.data import DATASETS
from kdbench.plan.cohorts import Cohort
from kdbench.plan.cost import cohort_seconds, teacher_seconds
from kdbench.plan.cut import breadth
from kdbench.plan.fleet import Fleet
from kdbench.plan.speeds import Rate
from kdbench.plan.task import Task
from kdbench.plugins import planned
from kdbench.teachers.facts import made_ready
from kdbench.trials.origins import foreign, foreign_teacher
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial, teacher_key

#: A worker takes seconds to start. Cohorts shorter than this share one, in turn.
SMALL_SECONDS = 60.0


def make_tasks(
    cohorts: Sequence[Cohort],
    template: Task,
    rate: Rate,
    fleet: Fleet,
    warnings: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Task]:
    """One task a teacher, one a cohort or a bundle of small ones, each after its teacher.

    A generation is a teacher, and so is each part of one that is made of others.

    Costs in seconds at ``rate``.

    ``template`` carries what all tasks of a run share:
    folders, device. ``warnings``: those of each data set, by its name.
    """
    teachers: dict[str, Task] = {}
    groups: dict[tuple[str, str, frozenset[str]], list[tuple[Cohort, float]]] = {}
    templates: dict[str, Task] = {}
    for cohort in cohorts:
        name, first = "", cohort.trials[0]
        template = templates.setdefault(first.dataset, _on(first, template, warnings or {}))
        for teacher in cohort.teacher.lineage if cohort.teacher else ():
            name = _teacher_id(teacher, first)
            if name not in teachers:
                teachers[name] = _teacher_task(teacher, first, template, rate)
        groups.setdefault((name, first.dataset, foreign(first)), []).append((cohort, cohort_seconds(cohort, rate)))
    bundles = [(*which, bundle) for which, members in groups.items() for bundle in _bundles(members, fleet.slots)]
    # Fewer tasks than slots: the students of a cohort, and its teacher one batch ahead, share what is left over.
    widest = max(device.slots for device in fleet.devices) if fleet.kind == "cpu" else 1
    spare = min(max(fleet.slots // max(len(bundles), 1), 1), widest)
    sharing = max(1 if device.memory else device.slots for device in fleet.devices)
    trainings = [
        replace(
            templates[dataset],
            id=f"cohort-{digest([cohort.id for cohort, _ in bundle])[:16]}",
            title=bundle[0][0].title + _more(len(bundle) - 1),
            trials=tuple(trial for cohort, _ in bundle for trial in cohort.trials),
            after=(name,) if name else (),
            cost=sum(cost for _, cost in bundle) / min(spare, _widest(bundle)),
            cores=min(spare, _widest(bundle)),
            share=1 / min(sharing, len(bundles)),
            plugins=planned(origins),
        )
        for name, dataset, origins, bundle in bundles
    ]
    return sorted(_longest_first(teachers.values()), key=_generation) + _longest_first(trainings)


def _on(trial: Trial, template: Task, warnings: Mapping[str, tuple[str, ...]]) -> Task:
    """``template`` for tasks on the data set and of the suite of ``trial``."""
    said = warnings.get(trial.dataset, template.warnings)
    spec = DATASETS.get(trial.dataset)
    return replace(
        template,
        dataset=trial.dataset,
        data_digest=trial.data_digest,
        suite=trial.suite,
        warnings=said,
        own=spec if spec.folder else None,
    )


def _more(count: int) -> str:
    """What a bundle's title says of the cohorts beside its first."""
    return f" and {count} more cohort{'s' * (count > 1)}" if count else ""


def longest_chain(tasks: Sequence[Task]) -> float:
    """Seconds of the costliest line of ``tasks`` that wait for one another, which no number of slots can shorten.

    Each task stands behind those it waits for.
    """
    ends: dict[str, float] = {}
    for task in tasks:
        ends[task.id] = task.cost + max((ends[name] for name in task.after), default=0.0)
    return max(ends.values(), default=0.0)


def _generation(task: Task) -> int:
    """How many teachers stand behind the one that ``task`` makes ready, itself included: more than behind those."""
    return len(task.teacher.lineage) if task.teacher else 0


def _teacher_id(teacher: Teacher, student: Trial) -> str:
    return f"teacher-{teacher_key(teacher, student.dataset, student.data_digest)[:16]}"


def _teacher_task(teacher: Teacher, student: Trial, template: Task, rate: Rate) -> Task:
    key = teacher_key(teacher, student.dataset, student.data_digest)
    ready = made_ready(template.cache, key, template.device)
    return replace(
        template,
        id=_teacher_id(teacher, student),
        title=f"teacher {teacher.name}",
        teacher=teacher,
        after=tuple(dict.fromkeys(_teacher_id(before, student) for before in teacher.before)),
        cost=0.0 if ready else teacher_seconds(teacher, student.dataset, student.data_digest, rate),
        plugins=planned(foreign_teacher(teacher, student.dataset)),
        looks=(),
    )


def _widest(bundle: Sequence[tuple[Cohort, float]]) -> int:
    """How many cores its widest cohort can fill."""
    return max(breadth(cohort) for cohort, _ in bundle)


def _longest_first(tasks: Iterable[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: -task.cost)


def _bundles(members: Sequence[tuple[Cohort, float]], slots: int) -> list[list[tuple[Cohort, float]]]:
    """Each long cohort by itself; the small ones dealt, longest first, to at most ``slots`` bundles of equal length."""
    long = [[member] for member in members if member[1] >= SMALL_SECONDS]
    small = sorted((member for member in members if member[1] < SMALL_SECONDS), key=lambda member: -member[1])
    piles: list[list[tuple[Cohort, float]]] = [[] for _ in range(min(slots, len(small)))]
    loads = [(0.0, number) for number in range(len(piles))]
    for member in small:
        load, number = loads[0]
        piles[number].append(member)
        heapreplace(loads, (load + member[1], number))
    return long + piles
