"""Costs: what is more work is said to take longer, and the makespan is that of the longest-first rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_trial import ALONE_TRAINED, PROTOCOL, TRAINED, TRIAL

from kdbench.plan.cohorts import Cohort
from kdbench.plan.cost import (
    RATES,
    TRAINING,
    cohort_seconds,
    forward_gflops,
    measured_rate,
    teacher_seconds,
    trial_seconds,
)
from kdbench.plan.cut import longest_first
from kdbench.plan.fleet import cpu

RATE = RATES["cpu"]
CIFAR = replace(TRIAL, dataset="cifar100", student="resnet20")


@pytest.mark.parametrize(
    "change",
    [{"protocol": replace(PROTOCOL, epochs=480)}, {"student": "resnet56"}, {"student": "wrn_40_2"}],
    ids=["longer", "deeper", "wider"],
)
def test_more_work_takes_longer(change: dict[str, object]) -> None:
    assert trial_seconds(replace(CIFAR, **change), RATE) > 1.5 * trial_seconds(CIFAR, RATE)  # type: ignore[arg-type]


def test_a_tiny_network_on_small_images_takes_a_tiny_part() -> None:
    """The plan of the demonstration suite must not promise hours."""
    short = replace(TRIAL, protocol=replace(PROTOCOL, epochs=12), student="tiny_cnn_s")
    assert trial_seconds(short, RATE) < 10
    assert trial_seconds(replace(CIFAR, protocol=replace(PROTOCOL, epochs=12)), RATE) > 100


def test_a_faster_machine_takes_less() -> None:
    assert trial_seconds(CIFAR, 2 * RATE) < trial_seconds(CIFAR, RATE)


def test_a_held_out_split_shortens_the_training() -> None:
    held = replace(CIFAR, protocol=replace(PROTOCOL, holdout=10_000))
    assert trial_seconds(held, RATE) < trial_seconds(CIFAR, RATE)


def test_a_cohort_pays_its_teacher_once() -> None:
    one, two = Cohort((CIFAR,)), Cohort((CIFAR, replace(CIFAR, seed=1)))
    teacher = cohort_seconds(one, RATE) - trial_seconds(CIFAR, RATE)
    assert teacher > 0
    assert cohort_seconds(two, RATE) == pytest.approx(teacher + 2 * trial_seconds(CIFAR, RATE))
    alone = replace(CIFAR, teacher=None)
    assert cohort_seconds(Cohort((alone,)), RATE) == pytest.approx(trial_seconds(alone, RATE))


def test_a_trained_teacher_costs_its_training() -> None:
    assert TRIAL.teacher is not None
    look = teacher_seconds(TRIAL.teacher, "digits", "a" * 64, RATE)
    assert teacher_seconds(TRAINED, "digits", "a" * 64, RATE) > look + trial_seconds(ALONE_TRAINED, RATE) * 0.99


@pytest.mark.parametrize(
    ("costs", "slots", "expected"),
    [([], 2, 0), ([5], 3, 5), ([3, 3, 2, 2, 2], 2, 7), ([1, 1, 1, 9], 2, 9), ([4, 3, 2, 1], 1, 10)],
)
def test_makespan(costs: list[float], slots: int, expected: float) -> None:
    assert longest_first(costs, cpu(slots)) == expected


def record(speed: float, student: str = "resnet20", device: str = "cpu", dataset: str = "cifar100") -> dict[str, Any]:
    """As much of a record as the plan reads: ``speed`` images a second of training."""
    return {
        "dataset": dataset,
        "student_model": student,
        "cost": {"train_images_per_s": speed, "flops": forward_gflops(student, 32) * 1e9},
        "numerics": {"device": device},
        "identity": {"protocol": PROTOCOL.identity()},
    }


def test_the_rate_is_the_median_of_like_trainings_on_such_a_device() -> None:
    records = [record(s) for s in (1.0, 2.0, 90.0)]
    others = [record(500.0, device="cuda"), record(700.0, "vgg8"), record(900.0, dataset="cifar10")]
    others += [{**record(0.1), "cost": None}, {**record(0.1), "numerics": None}]
    assert measured_rate(records + others, [CIFAR], "cpu") == measured_rate([record(2.0)], [CIFAR], "cpu")
    assert measured_rate(records + others, [replace(CIFAR, student="wrn_40_2")], "cpu") is None


@pytest.mark.parametrize("speed", [5.0, 200.0, 2000.0])
def test_a_measured_rate_predicts_the_time_it_was_measured_in(speed: float) -> None:
    """The record's FLOPs and the plan's must be counted alike, else the first record makes estimates worse."""
    rate = measured_rate([record(speed)], [CIFAR], "cpu")
    assert rate is not None
    truth = PROTOCOL.epochs * 50_000 / speed
    scoring = PROTOCOL.epochs * 10_000 / speed / TRAINING
    assert trial_seconds(CIFAR, rate) == pytest.approx(truth + scoring, rel=0.1)
