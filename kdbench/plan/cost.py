"""What a plan will cost, so that the longest work starts first and a dry run can say how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdbench.data import DATASETS
from kdbench.methods import METHODS
from kdbench.models import get_spec
from kdbench.models.facts import FACTS, TRAINING, UNKNOWN_MFLOPS
from kdbench.plan.cohorts import Cohort
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial, teacher_trial

#: GFLOP/s a slot reaches on these networks until the store knows better: thin float32 convolutions on one CPU core,
#: or a GPU.
RATES = {"cpu": 40.0, "cuda": 8000.0}

#: Seconds of a training step that no arithmetic explains: launching its operations. It is what tiny networks cost.
STEP_SECONDS = 0.004


def forward_gflops(model: str, side: int) -> float:
    """GFLOP of one image's forward pass at ``side`` pixels, scaled from the architecture's native size."""
    spec = get_spec(model)
    mflops = FACTS[spec.name].mflops if spec.name in FACTS else UNKNOWN_MFLOPS
    return mflops / 1000 * (side / spec.input) ** 2


def teacher_gflops(teacher: Teacher, side: int) -> float:
    """GFLOP of what ``teacher`` says of one image: its own forward pass, or that of each of its parts."""
    if teacher.composition is not None:
        own = teacher.composition.networks() * teacher_gflops(teacher.parts[0], side)
        return own + sum(teacher_gflops(part, side) for part in teacher.parts)
    return forward_gflops(teacher.model, side)


def trial_seconds(trial: Trial, rate: float) -> float:
    """Seconds of a trial's own training and its scoring after every epoch, at ``rate`` GFLOP/s."""
    data = DATASETS.get(trial.dataset)
    images = (data.train_size - trial.protocol.holdout) * trial.supervision.portion(data)
    forward = forward_gflops(trial.student, data.image_shape[-1])
    budget = METHODS.get(trial.method).budget
    trained = budget.epochs * images
    arithmetic = forward * (TRAINING * budget.views * trained + data.test_size + trial.protocol.holdout) / rate
    return trial.protocol.epochs * (arithmetic + trained / trial.protocol.batch * STEP_SECONDS)


def cohort_seconds(cohort: Cohort, rate: float) -> float:
    """Seconds of a cohort: its students' own, and one teacher forward a batch, and a view of it, for all of them."""
    total = sum(trial_seconds(trial, rate) for trial in cohort.trials)
    if cohort.teacher is not None:
        first = cohort.trials[0]
        data = DATASETS.get(first.dataset)
        budgets = [METHODS.get(trial.method).budget for trial in cohort.trials if trial.teacher]
        passes = first.protocol.epochs * max(budget.epochs for budget in budgets) * max(b.views for b in budgets)
        images = passes * (data.train_size - first.protocol.holdout) * first.supervision.portion(data)
        total += images * teacher_gflops(cohort.teacher, data.image_shape[-1]) / rate
    return total


def teacher_seconds(teacher: Teacher, dataset: str, data_digest: str, rate: float) -> float:
    """Seconds of making a teacher ready once its parent is: its training, if any, and one look at the test images."""
    data = DATASETS.get(dataset)
    look = data.test_size * teacher_gflops(teacher, data.image_shape[-1]) / rate
    if teacher.composition is not None and teacher.protocol is not None:
        alike = replace(
            teacher.parts[0], kind="trained", protocol=teacher.protocol, method="ce", config={}, parent=None
        )
        one = cohort_seconds(Cohort((teacher_trial(alike, dataset, data_digest),)), rate)
        return look + teacher.composition.networks() * one
    if not teacher.trained:
        return look
    return look + cohort_seconds(Cohort((teacher_trial(teacher, dataset, data_digest),)), rate)


def measured_rate(records: Iterable[Mapping[str, Any]], trials: Sequence[Trial], device: str) -> float | None:
    """GFLOP/s a slot reached when records on this kind of device trained these students on these images.

    None without any.
    """
    wanted = {(trial.dataset, trial.student) for trial in trials}
    rates = []
    for record in records:
        cost, numerics = record["cost"], record["numerics"]
        if (record["dataset"], record["student_model"]) not in wanted or not cost or not numerics:
            continue
        if numerics["device"] != device or cost["train_images_per_s"] is None:
            continue
        an_image = 1 / cost["train_images_per_s"]
        arithmetic = an_image - STEP_SECONDS / record["identity"]["protocol"]["batch"]
        rates.append(TRAINING * cost["flops"] / 1e9 / max(arithmetic, an_image / 10))
    return sorted(rates)[len(rates) // 2] if rates else None
