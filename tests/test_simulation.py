"""Runs on fleets that need not exist: how long they take, against what no schedule undercuts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from bench import Bench, suite_text
from test_cli import Cli, cli  # noqa: F401
from test_queue import task
from test_trial import TRIAL

from kdbench.plan.cohorts import Cohort, cohorts
from kdbench.plan.cost import cohort_seconds
from kdbench.plan.cut import fitted
from kdbench.plan.fleet import Device, Fleet, cpu
from kdbench.plan.task import Task
from kdbench.plan.tasks import make_tasks
from kdbench.schedule.simulate import LOST, START, lower_bound, simulate, without_failures
from kdbench.suites import Suite
from kdbench.trials.trial import Trial

MakeSuite = Callable[[str], Suite]
RATE = 8000.0
STUDENTS = ("resnet8", "resnet14", "resnet20", "resnet32", "wrn_16_2", "vgg8", "shufflenetv1_cifar")


def mixed(count: int) -> list[Trial]:
    """So many trials of mixed length, as suites have them: 4 to 240 epochs, students of other sizes, 1 to 24 rows."""
    chance, made = random.Random(0), list[Trial]()
    while len(made) < count:
        protocol = replace(TRIAL.protocol, epochs=chance.choice([4, 30, 60, 240]))
        cell = replace(TRIAL, dataset="cifar100", student=chance.choice(STUDENTS), protocol=protocol, seed=len(made))
        made += [replace(cell, config={"temperature": 1.0 + row}) for row in range(chance.randint(1, 24))]
    return made[:count]


def gpus(count: int, *speeds: float) -> Fleet:
    return Fleet("cuda", tuple(Device(str(n), speed=speeds[n] if speeds else 1.0) for n in range(count)))


def planned(trials: Sequence[Trial], fleet: Fleet) -> tuple[list[Cohort], list[Task]]:
    """The cohorts as they would be on one device, and the tasks for ``fleet``."""
    whole, here = cohorts(trials), Path()
    template = Task("", "", (), None, "cifar100", "0" * 64, "s@1", here, here, here, fleet.kind)
    return whole, make_tasks(fitted(whole, RATE, fleet), template, RATE, fleet)


@pytest.mark.parametrize(
    ("trials", "fleet", "over"),
    [
        (500, gpus(8), 1.05),
        (500, gpus(8, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 2.0, 2.0), 1.05),
        pytest.param(5000, gpus(256), 1.10, id="5000 on 256"),
    ],
)
def test_the_last_task_ends_soon_after_what_no_schedule_undercuts(trials: int, fleet: Fleet, over: float) -> None:
    whole, tasks = planned(mixed(trials), fleet)
    found = simulate(tasks, fleet)
    assert found.unfinished == ()
    assert found.bound == lower_bound(tasks, fleet, START)
    assert found.bound <= found.makespan <= over * found.bound
    # And of the work as one device would do it, which shares more of it.
    longest = max(cohort_seconds(Cohort((trial,)), RATE) for cohort in whole for trial in cohort.trials)
    least = max(sum(cohort_seconds(cohort, RATE) for cohort in whole) / fleet.capacity, longest)
    assert found.makespan <= over * least


def test_a_cohort_is_cut_to_the_fleet_and_only_where_that_ends_sooner() -> None:
    trials = [replace(TRIAL, dataset="cifar100", config={"temperature": float(t)}) for t in range(1, 17)]
    (whole,) = cohorts(trials)
    assert fitted([whole], RATE, gpus(1)) == [whole]
    assert fitted([whole], 40.0, cpu(8)) == [whole], "its students are stepped side by side"
    assert len(fitted([whole], RATE, gpus(256))) == 16
    four = fitted([whole], RATE, gpus(4))
    assert [len(cohort.trials) for cohort in four] == [4] * 4
    assert [trial for cohort in four for trial in cohort.trials] == list(whole.trials)


def test_a_simulation_is_the_same_each_time_and_another_by_its_seed() -> None:
    fleet = Fleet("cuda", tuple(Device(str(n), failures=0.5, price=2.0) for n in range(4)))
    tasks = [task(f"t{n}", 1000.0 + n) for n in range(40)]
    one, other = (simulate(tasks, fleet, seed=seed) for seed in (1, 2))
    assert one == simulate(tasks, fleet, seed=1)
    assert one != other
    assert one.failures > 0
    assert one.makespan > simulate(tasks, without_failures(fleet)).makespan
    assert one.cost == pytest.approx(one.makespan / 3600 * 8)


def test_a_failure_costs_what_was_done_since_the_last_checkpoint() -> None:
    fleet = Fleet("cuda", (Device("0", failures=0.6),))
    found = simulate([task("t", 20_000.0)], fleet)
    assert found.failures > 0
    assert found.makespan == pytest.approx(20_000 + START + found.failures * (START + LOST), rel=1e-6)


def test_tasks_wait_for_what_they_come_after() -> None:
    chain = [task(f"t{n}", 100.0, after=(f"t{n - 1}",) if n else ()) for n in range(5)]
    found = simulate(chain, gpus(8), start=0.0)
    assert found.makespan == found.bound == 500.0
    assert found.utilisation == pytest.approx(1 / 8)


def test_those_that_share_a_gpu_take_turns() -> None:
    shared = Fleet("cuda", (Device("0", slots=2, memory=1e9),))
    two = [task("a", 100.0, memory=1e8), task("b", 100.0, memory=1e8)]
    assert simulate(two, shared, start=0.0).makespan == pytest.approx(200.0)
    assert simulate(two, cpu(2), start=0.0).makespan == pytest.approx(100.0)


FLEET = """
kind = "cuda"
[[devices]]
count = 8
memory = 80
speed = 1.5
price = 2.5
failures = 0.001
"""


def dry(cli: Cli, bench: Bench, text: str) -> tuple[int, str]:  # noqa: F811
    file = bench.folder / "fleet.toml"
    file.write_text(text)
    ended = cli("run", "--suite", "tiny", "--dry-run", "--fleet", str(file))
    return ended.code, ended.out + ended.err


def test_a_dry_run_says_what_a_fleet_would_take(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is timed for it: the devices are not here."""
    monkeypatch.setattr("kdbench.plan.speeds.probed", lambda *_: pytest.fail("this machine says nothing of a fleet"))
    make_suite(suite_text(["ce", "kd", "dkd"], seeds=range(20), epochs=9000))
    code, said = dry(cli, bench, FLEET)
    assert code == 0
    assert "On the 8 devices of " in said
    assert " % over the " in said
    assert "the fleet costs " in said
    assert "8 cuda slots" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices = []", "a fleet has 1 to 1000 devices, not 0."),
        ("[[devices]]\ncount = 1001", "count must be at most 1000"),
        ("[[devices]]\ncount = 600\n[[devices]]\ncount = 600", "not 1200."),
        ("[[devices]]\nprize = 2", "unknown field 'prize'"),
        ('kind = "tpu"\n[[devices]]', "kind must be cpu or cuda"),
        ("[[devices]]\nspeed = 0", "speed must be a number from 0.001"),
        ("[[devices]]\nfailures = 1e9", "failures must be a number from 0 to 100"),
        ("[[devices]]\nspeed = 1e-300", "speed must be a number from 0.001 to 1000"),
        ("[[devices]]\nfailures = -1", "failures must be a number from 0"),
        ("[[devices]]\nmemory = inf", "memory must be a number from 0.001"),
        ("[[devices]]\nslots = 0", "slots must be at least 1"),
        ("[[devices]", "not valid TOML"),
        ("", "'devices' is missing"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(
    cli: Cli,  # noqa: F811
    bench: Bench,
    make_suite: MakeSuite,
    text: str,
    words: str,
) -> None:
    make_suite(suite_text(["ce"]))
    code, said = dry(cli, bench, text)
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_a_fleet_is_for_planning(cli: Cli, make_suite: MakeSuite) -> None:  # noqa: F811
    make_suite(suite_text(["ce"]))
    ended = cli("run", "--suite", "tiny", "--fleet", "fleet.toml")
    assert ended.code == 2
    assert "--dry-run" in ended.err
