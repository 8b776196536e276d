"""Costs: what is more work is said to take longer, and the makespan is that of the longest-first rule."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_trial import ALONE_TRAINED, PROTOCOL, TRAINED, TRIAL

from kdbench.plan.cohorts import Cohort
from kdbench.plan.cost import TRAINING, cohort_seconds, forward_gflops, teacher_seconds, trial_seconds
from kdbench.plan.cut import longest_first
from kdbench.plan.fleet import cpu
from kdbench.plan.speeds import RATES, Measured, Recipe, Speed, Speeds, Training, keep, probed
from kdbench.trials.trial import Trial

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
        "cost": {"train_images_per_s": speed, "flops": forward_gflops(student, (3, 32, 32), 100) * 1e9},
        "numerics": {"device": device},
        "identity": {"protocol": PROTOCOL.identity()},
    }


def speeds(records: list[dict[str, Any]], folder: Path, device: str = "cpu") -> Speeds:
    return Speeds(device, records, folder)


def test_the_speed_is_the_median_of_like_trainings_on_such_a_device(tmp_path: Path) -> None:
    records = [record(s) for s in (1.0, 2.0, 90.0)]
    others = [record(500.0, device="cuda"), record(700.0, "vgg8"), record(900.0, dataset="cifar10")]
    others += [{**record(0.1), "cost": None}, {**record(0.1), "numerics": None}]
    alone = trial_seconds(CIFAR, speeds([record(2.0)], tmp_path))
    assert trial_seconds(CIFAR, speeds(records + others, tmp_path)) == alone


@pytest.mark.parametrize("speed", [5.0, 200.0, 2000.0])
def test_a_measured_speed_predicts_the_time_it_was_measured_in(tmp_path: Path, speed: float) -> None:
    """The record's FLOPs and the plan's must be counted alike, else the first record makes estimates worse."""
    truth = PROTOCOL.epochs * 50_000 / speed
    scoring = PROTOCOL.epochs * 10_000 / speed / TRAINING
    assert trial_seconds(CIFAR, speeds([record(speed)], tmp_path)) == pytest.approx(truth + scoring, rel=0.1)


def test_what_is_most_like_a_training_tells_its_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of the student, what it reached here, records of such steps, what they reached here, and then a probe."""
    monkeypatch.setattr("kdbench.plan.speeds.probed", lambda *_: Speed(5.0))
    bf16 = replace(CIFAR, protocol=replace(PROTOCOL, precision="bf16"))
    like = replace(CIFAR, student="resnet32")
    work = Training("resnet20", "cifar100", Recipe(), 1e9, 15.0)

    def rate(records: list[dict[str, Any]], trial: Trial = CIFAR) -> float:
        seen: list[float] = []
        known = speeds(records, tmp_path)
        of = known.of
        monkeypatch.setattr(known, "of", lambda training: (seen.append(of(training).gflops), of(training))[1])
        trial_seconds(trial, known)
        return seen[0]

    assert rate([]) == 5.0
    assert rate([record(100.0, "tiny_cnn_s")]) == 5.0, "so small a step says nothing"
    own, other = rate([record(100.0)]), rate([record(100.0, "resnet32")])
    assert other == pytest.approx(own * 138 / 81.6, rel=0.1)
    keep(tmp_path, "cpu", Measured("resnet32", "cifar100", Recipe(), work.step, 77.0))
    assert rate([]) == 77.0
    assert rate([record(100.0, "resnet56")]) not in (5.0, 77.0)
    assert rate([], like) == 77.0
    keep(tmp_path, "cpu", Measured("resnet20", "cifar100", Recipe(), work.step, 33.0))
    assert rate([record(100.0, "resnet32")]) == 33.0
    assert rate([record(100.0)]) == own
    assert rate([record(100.0)], bf16) == 5.0, "another precision is another speed"
    keep(tmp_path, "cuda", Measured("resnet20", "cifar100", Recipe("bf16"), work.step, 88.0))
    assert rate([], bf16) == 5.0
    for path in tmp_path.glob("speed-*.json"):
        path.write_text("damaged")
    assert rate([]) == 5.0


def test_nobody_waits_for_a_probe_before_a_short_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.plan.speeds.probed", lambda *_: pytest.fail("it probed"))
    short = replace(TRIAL, protocol=replace(PROTOCOL, epochs=12), student="tiny_cnn_s")
    assert trial_seconds(short, speeds([], tmp_path)) == trial_seconds(short, RATE)
    with pytest.raises(pytest.fail.Exception):
        trial_seconds(CIFAR, speeds([], tmp_path))


def test_a_probe_is_made_once_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [subprocess.CompletedProcess([], 0, b'{"gflops": 12.5, "step": 0.25}')]
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: (commands.append(command), told.pop())[1])
    for _ in range(2):
        assert probed(tmp_path, "cpu", Recipe("bf16", "norms"), 1) == Speed(12.5, 0.25)
    assert [command[2:] for command in commands] == [["kdbench.train.speed", "cpu", "bf16", "norms", "1"]]


@pytest.mark.parametrize("fault", [b"", b"[1]", b'{"gflops": 1}x'])
def test_a_probe_that_fails_costs_the_estimate_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: bytes
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, fault))
    assert probed(tmp_path, "cpu", Recipe(), 1) is None
    assert list(tmp_path.iterdir()) == []
