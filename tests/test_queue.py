"""What the queue decides: who starts where, who may overtake, what shares a device, and what comes of an end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_trial import PROTOCOL, TRIAL

from kdbench.canonical import plain
from kdbench.plan.fleet import Device, Fleet, cpu
from kdbench.plan.memory import Needs
from kdbench.plan.task import EXIT_DEVICE, EXIT_MEMORY, EXIT_REFUSED, Task
from kdbench.schedule.base import Ending, Grant
from kdbench.schedule.queue import PATIENCE, STOPS, Queue

HERE = Path()
GB = 1e9
DONE = Ending(0, "ended with code 0", done=True)
KILLED = Ending(-9, "was ended by SIGKILL", "/log")
NO_MEMORY = Ending(EXIT_MEMORY, "ran out of memory", "/log")


def task(name: str, cost: float = 1.0, trials: int = 0, **fields: Any) -> Task:
    empty = Task(name, name, (), None, "digits", "0" * 64, "s@1", HERE, HERE, HERE, "cpu", cost=cost)
    return replace(empty, trials=tuple(replace(TRIAL, seed=n) for n in range(trials)), **fields)


def gpus(*memories: float | None, slots: int = 4) -> Fleet:
    return Fleet("cuda", tuple(Device(str(n), slots, memory) for n, memory in enumerate(memories)))


def names(grants: Sequence[Grant]) -> list[str]:
    return [grant.task.id for grant in grants]


def only(queue: Queue, now: float = 0.0) -> Grant:
    (grant,) = queue.start(now)
    return grant


# Who starts.


def test_a_wide_task_does_not_idle_the_core_that_is_free() -> None:
    queue = Queue([task("a"), task("wide", cores=2), task("b"), task("c")], cpu(2))
    assert names(queue.start(0.0)) == ["a", "b"]


def test_a_wide_task_does_not_starve() -> None:
    """However many short ones follow, it starts after the longer of its own time and a patience."""
    queue = Queue([task("a", 60), task("wide", 100, cores=2), *(task(f"t{n}", 60) for n in range(100))], cpu(2))
    running, now, started = queue.start(0.0), 0.0, None
    while started is None:
        now += 30.0
        queue.ended(running.pop(0), DONE)
        running += queue.start(now)
        started = next((now for grant in running if grant.task.id == "wide"), None)
        assert now < 10 * PATIENCE
    assert PATIENCE < started < PATIENCE + 200
    assert len({slot for grant in queue.running for slot in grant.slots}) == 2


def test_a_task_that_is_wider_than_the_machine_takes_all_of_it() -> None:
    grant = only(Queue([task("wide", cores=8), task("b")], cpu(3)))
    assert grant.slots == (0, 1, 2)


def test_a_device_is_shared_while_the_memory_lasts() -> None:
    queue = Queue([task(f"t{n}", memory=30 * GB) for n in range(8)], gpus(80 * GB, 40 * GB))
    grants = queue.start(0.0)
    assert sorted(grant.device for grant in grants) == [0, 0, 1]
    assert not queue.start(1.0)
    queue.ended(grants[0], DONE)
    assert [grant.device for grant in queue.start(2.0)] == [grants[0].device]


def test_who_takes_an_unknown_amount_is_alone_until_it_is_known() -> None:
    queue = Queue([task("a"), task("b"), task("c", memory=GB)], gpus(80 * GB))
    a = only(queue)
    assert not queue.start(1.0)
    queue.holds(a, 10 * GB)
    assert names(queue.start(2.0)) == ["c"], "b might take anything"


def test_a_task_plans_with_what_is_left_of_its_device() -> None:
    first, second = Queue([task(f"t{n}", memory=30 * GB) for n in range(2)], gpus(100 * GB)).start(0.0)
    assert first.task.share == pytest.approx(30 / 90)
    assert second.task.share == pytest.approx(30 / 60)


def test_what_a_worker_holds_is_known_of_others_of_its_kind() -> None:
    """Students of one pair take alike; a larger cohort takes more, and of another pair nothing is known."""
    queue = Queue([task(f"t{n}", trials=4 + 4 * (n == 3)) for n in range(4)], gpus(100 * GB))
    first = only(queue)
    queue.holds(first, 20 * GB)
    beside = queue.start(1.0)
    assert names(beside) == ["t1", "t2"], "twice 22 for the larger one would be 110 of 90"
    assert [grant.task.memory / GB for grant in beside] == pytest.approx([22.0, 22.0])
    for grant in (first, *beside):
        queue.ended(grant, DONE)
    assert only(queue, 2.0).task.memory / GB == pytest.approx(44.0)


def test_what_records_say_of_memory_is_known_before_a_run() -> None:
    cost = {"peak_memory_bytes": 20 * GB, "cohort_size": 4}
    where = {"dataset": TRIAL.dataset, "student_model": TRIAL.student, "identity": {"protocol": plain(PROTOCOL)}}
    gpu, processor = {"device": "cuda"}, {"device": "cpu"}
    for numerics, expected in ((gpu, 20 * GB), (processor, 0.0), (None, 0.0)):
        needs = Needs()
        needs.read([{**where, "cost": cost, "numerics": numerics}, {**where, "cost": None, "numerics": gpu}], [TRIAL])
        assert needs.of(task("t", trials=2)) == expected
        assert needs.of(task("t", trials=8)) == 2 * expected
        assert needs.of(task("teacher")) == 0.0
    assert needs.of(task("t", memory=3 * GB)) == 3 * GB


def test_devices_without_a_known_memory_are_divided_by_slots() -> None:
    grants = Queue([task(f"t{n}") for n in range(9)], gpus(None, None, slots=2)).start(0.0)
    assert sorted(grant.device for grant in grants) == [0, 0, 1, 1]
    assert len({grant.slots for grant in grants}) == 4


def test_an_exclusive_task_has_its_device_alone() -> None:
    queue = Queue([task("a"), task("alone", exclusive=True), task("b")], cpu(2))
    running = queue.start(0.0)
    assert names(running) == ["a", "b"]
    for grant in running:
        queue.ended(grant, DONE)
    alone = only(queue, 1.0)
    assert alone.task.id == "alone"
    queue = Queue([task("alone", exclusive=True), task("b")], cpu(2))
    assert names(queue.start(0.0)) == ["alone"]


def test_a_slow_device_is_not_given_what_a_fast_one_ends_sooner() -> None:
    fleet = Fleet("cuda", (Device("slow", speed=0.1), Device("fast", speed=1.0)))
    queue = Queue([task("a", 10), task("b", 10)], fleet)
    assert only(queue).device == 1, "b waits 10 s and takes 10, and would take 100 on the slow one"
    assert [grant.device for grant in Queue([task(f"t{n}", 10) for n in range(30)], fleet).start(0.0)] == [1, 0]


# What comes of an end.


def test_memory_that_ran_out_halves_a_cohort_until_each_is_alone_with_the_device() -> None:
    queue = Queue([task("t", 8.0, trials=4)], cpu(2))
    seen: list[tuple[int, bool]] = []
    while not queue.over:
        for grant in queue.start(0.0):
            seen.append((len(grant.task.trials), grant.task.exclusive))
            queue.ended(grant, NO_MEMORY)
    assert seen.count((4, False)) == 1
    assert seen.count((2, False)) == 2
    assert seen.count((1, False)) == 4
    assert seen.count((1, True)) == 4
    assert len(seen) == 11
    assert len(queue.failed) == 4
    assert all("ran out of memory" in text and "/log" in text for text in queue.failed.values())


def test_halves_have_the_cost_and_the_trials_of_the_whole() -> None:
    queue = Queue([task("t", 9.0, trials=3, memory=5 * GB)], gpus(80 * GB))
    queue.ended(only(queue), NO_MEMORY)
    parts = queue.start(0.0)
    queue.ended(parts[0], DONE)
    parts += queue.start(1.0)
    assert [len(part.task.trials) for part in parts] == [2, 1]
    assert sum(part.task.cost for part in parts) == pytest.approx(9.0)
    assert len({part.task.id for part in parts}) == 2
    assert {trial.seed for part in parts for trial in part.task.trials} == {0, 1, 2}


def test_the_last_try_of_a_killed_trial_has_its_device_to_itself() -> None:
    queue = Queue([task("t", trials=1)], cpu(2), retries=2)
    tries = []
    while not queue.over:
        grant = only(queue)
        tries.append((grant.task.attempt, grant.task.exclusive))
        queue.ended(grant, KILLED)
    assert tries == [(1, False), (2, False), (3, True)]
    assert list(queue.failed) == ["t"]


@pytest.mark.parametrize("ending", [replace(KILLED, lost=True), replace(KILLED, code=7, saved=True)])
def test_what_its_node_is_to_blame_for_is_no_failure_of_the_task(ending: Ending) -> None:
    queue = Queue([task("t", trials=3)], cpu())
    for _ in range(STOPS):
        (event,) = queue.ended(only(queue), ending)
        assert event[1]["event"] == "retried"
    grant = only(queue)
    assert grant.task.attempt == STOPS + 1
    assert len(grant.task.trials) == 3
    queue.ended(grant, ending)
    assert len(only(queue).task.trials) == 1, "and at last its trials are suspected after all"


@pytest.mark.parametrize("code", [EXIT_REFUSED, EXIT_DEVICE, 1])
def test_an_end_of_each_kind_ends_at_last(code: int) -> None:
    queue = Queue([task("t", trials=2), task("u")], cpu(2))
    for _ in range(100):
        for grant in queue.start(0.0):
            queue.ended(grant, DONE if grant.task.id == "u" else Ending(code, "ended", "/log"))
        if queue.over:
            break
    assert queue.over
    assert [done.id for done in queue.finished] == ["u"]
    assert len(queue.failed) == (1 if code == EXIT_REFUSED else 2)


def test_what_could_not_be_started_is_first_again() -> None:
    queue = Queue([task("a"), task("b")], cpu())
    queue.put_back(only(queue))
    assert names(queue.start(1.0)) == ["a"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_is_oversubscribed_or_forgotten(seed: int) -> None:
    """Random tasks, fleets and ends: memory, slots and order hold, and every trial is accounted for."""
    chance = random.Random(seed)
    memory = chance.choice([None, 80 * GB])
    fleet = Fleet(
        chance.choice(["cpu", "cuda"]),
        tuple(
            Device(str(n), chance.randint(1, 4), memory, chance.choice([1.0, 1.0, 0.5]))
            for n in range(chance.randint(1, 5))
        ),
    )
    tasks = [task(f"teacher{n}", chance.uniform(1, 50)) for n in range(3)]
    for number in range(30):
        after = (f"teacher{chance.randrange(3)}",) if chance.random() < 0.5 else ()
        fields = {"cores": chance.randint(1, 3), "memory": chance.choice([0.0, 10 * GB, 50 * GB]), "after": after}
        tasks.append(task(f"t{number}", chance.uniform(1, 500), trials=chance.randint(1, 5), **fields))
    queue, now, running = Queue(tasks, fleet), 0.0, dict[int, Grant]()
    trials = {(each.id, trial.seed) for each in tasks for trial in each.trials}
    while True:
        running.update((grant.id, grant) for grant in queue.start(now))
        assert sorted(grant.id for grant in queue.running) == sorted(running)
        slots = [slot for grant in running.values() for slot in grant.slots]
        assert len(slots) == len(set(slots))
        assert all(0 <= slot < fleet.slots for slot in slots)
        done = {each.id for each in queue.finished}
        assert all(set(grant.task.after) <= done for grant in running.values())
        for number, device in enumerate(fleet.devices):
            here = [grant.task for grant in running.values() if grant.device == number]
            assert len(here) <= device.slots
            assert len(here) == 1 or not any(each.exclusive for each in here)
            if device.memory and len(here) > 1:
                assert sum(each.memory for each in here) <= device.memory
        if queue.over:
            break
        assert running, "something waits, and nothing runs that it could wait for"
        now += chance.uniform(0, 100)
        grant = running.pop(chance.choice(list(running)))
        end = chance.choice([DONE] * 6 + [KILLED, NO_MEMORY, Ending(1, "ended with code 1", "/log")])
        queue.ended(grant, end)
    ended = {(each.id.split("-")[0], trial.seed) for each in queue.finished for trial in each.trials}
    lost = {name.split("-")[0] for name in queue.failed}
    assert all(pair in ended or pair[0] in lost for pair in trials)
