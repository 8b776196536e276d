"""What a plan will cost, so that the longest work starts first and a dry run can say how long it takes."""

from __future__ import annotations

from dataclasses import replace

from kdbench.data import DATASETS
from kdbench.methods import METHODS
from kdbench.models import get_spec
from kdbench.models.build import AS_NAMED, Build
from kdbench.models.facts import FACTS, TRAINING
from kdbench.paths import cache_dir
from kdbench.plan.cohorts import Cohort
from kdbench.plan.counted import Shape, counted_mflops, counted_parameters
from kdbench.plan.speeds import Rate, Recipe, Speed, Training, speed_of, step_gflop
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import Trial, teacher_trial

#: Images of a batch where a network is only looked at.
EVALUATED = 250


def forward_gflops(model: str, shape: Shape, classes: int, build: Build = AS_NAMED) -> float:
    """GFLOP of a forward pass on one image of ``shape``: scaled from the architecture's native size, or counted."""
    spec = get_spec(model)
    if spec.name not in FACTS:
        return counted_mflops(cache_dir() / "costs", model, shape, classes, build) / 1000
    return FACTS[spec.name].mflops / 1000 * (build.seen(shape)[-1] / spec.input) ** 2


def weights_bytes(trial: Trial) -> int:
    """Bytes of the weights that ``trial`` leaves, about: of an architecture that no table has what is counted."""
    data = DATASETS.get(trial.dataset)
    if trial.student in FACTS:
        return 4 * FACTS[trial.student].parameters
    return 4 * counted_parameters(cache_dir() / "costs", trial.student, data.image_shape, data.classes)


def teacher_gflops(teacher: Teacher, shape: Shape, classes: int) -> float:
    """GFLOP of what ``teacher`` says of one image: its own forward pass, or that of each of its parts."""
    if teacher.composition is not None:
        each = [teacher_gflops(part, shape, classes) for part in teacher.parts]
        return sum(each) + (teacher.composition.networks() * each[0] if each else 0.0)
    return forward_gflops(teacher.model, shape, classes, teacher.build)


def trial_seconds(trial: Trial, rate: Rate) -> float:
    """Seconds of a trial's own training and its scoring after every epoch, at ``rate`` (GFLOP/s where it is one)."""
    data = DATASETS.get(trial.dataset)
    images = (data.train_size - trial.protocol.holdout) * trial.supervision.portion(data)
    forward = forward_gflops(trial.student, data.image_shape, data.classes, trial.build)
    budget = METHODS.get(trial.method).budget
    trained = budget.epochs * images
    epoch = forward * (TRAINING * budget.views * trained + data.test_size + trial.protocol.holdout)
    speed = _speed(rate, trial, trial.protocol.epochs * epoch, forward)
    return trial.protocol.epochs * (epoch / speed.gflops + trained / trial.protocol.batch * speed.step)


def _speed(rate: Rate, trial: Trial, gflop: float, forward: float) -> Speed:
    """Of work beside the steps of ``trial``, whose images take ``forward`` GFLOP, that comes to ``gflop`` in all."""
    step = step_gflop(forward * 1e9, trial.protocol.batch)
    return speed_of(rate, Training(trial.student, trial.dataset, Recipe.of(trial.protocol), gflop, step))


def cohort_seconds(cohort: Cohort, rate: Rate) -> float:
    """Seconds of a cohort: its students' own, and one teacher forward a batch, and a view of it, for all of them."""
    total = sum(trial_seconds(trial, rate) for trial in cohort.trials)
    if cohort.teacher is not None:
        first = cohort.trials[0]
        data = DATASETS.get(first.dataset)
        budgets = [METHODS.get(trial.method).budget for trial in cohort.trials if trial.teacher]
        passes = first.protocol.epochs * max(budget.epochs for budget in budgets) * max(b.views for b in budgets)
        images = passes * (data.train_size - first.protocol.holdout) * first.supervision.portion(data)
        work = images * teacher_gflops(cohort.teacher, data.image_shape, data.classes)
        forward = forward_gflops(first.student, data.image_shape, data.classes)
        total += work / _speed(rate, first, work, forward).gflops
    return total


def teacher_seconds(teacher: Teacher, dataset: str, data_digest: str, rate: Rate) -> float:
    """Seconds of making a teacher ready once its parent is: its training, if any, and one look at the test images."""
    data = DATASETS.get(dataset)
    work = data.test_size * teacher_gflops(teacher, data.image_shape, data.classes)
    step = TRAINING * EVALUATED * work / data.test_size
    look = work / speed_of(rate, Training(teacher.model, dataset, Recipe.of(teacher.protocol), work, step)).gflops
    if teacher.composition is not None and teacher.protocol is not None:
        alike = replace(
            teacher.parts[0], kind="trained", protocol=teacher.protocol, method="ce", config={}, parent=None
        )
        one = cohort_seconds(Cohort((teacher_trial(alike, dataset, data_digest),)), rate)
        return look + teacher.composition.networks() * one
    if not teacher.trained:
        return look
    return look + cohort_seconds(Cohort((teacher_trial(teacher, dataset, data_digest),)), rate)
