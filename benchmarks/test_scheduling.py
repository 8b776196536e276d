"""What scheduling itself costs: a decision among 10,000 trials, and the coordinator beside trials of ten seconds."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.plan.fleet import Device, Fleet, cpu
from kdbench.plan.task import Task
from kdbench.schedule import Coordinator, LocalLauncher
from kdbench.schedule.base import Ending
from kdbench.schedule.queue import Queue
from kdbench.schedule.simulate import simulate

HERE = Path()
EMPTY = Task("", "", (), None, "digits", "0" * 64, "s@1", HERE, HERE, HERE, "cpu", cost=100.0)
#: A worker that says a word each second for ten seconds, as one does that trains, and does nothing else.
ACTOR = """
import json, time
for _ in range(10):
    print(json.dumps({"event": "progress", "epoch": 1, "step": 1, "steps": 9, "loss": 1.0, "images_per_s": 1.0,
                      "members": 1}), flush=True)
    time.sleep(1)
print(json.dumps({"event": "done"}), flush=True)
"""


def tasks(count: int) -> list[Task]:
    return [replace(EMPTY, id=f"t{n}", cost=50.0 + n % 100, memory=1e9 * (n % 7 + 1)) for n in range(count)]


def test_a_decision(benchmark: BenchmarkFixture) -> None:
    """What is decided when one of 256 GPUs, of two speeds, is free again and 10,000 tasks are planned."""
    fleet = Fleet("cuda", tuple(Device(str(n), 4, 8e9, 1.0 + n % 2) for n in range(256)))
    queue = Queue(tasks(10_000), fleet)
    now, running = 0.0, queue.start(0.0)

    def decide() -> None:
        nonlocal now
        now += 1.0
        queue.ended(running.pop(0), Ending(0, "", done=True))
        running.extend(queue.start(now))

    benchmark.pedantic(decide, rounds=500)
    benchmark.extra_info["limit"] = "50 ms"


def test_a_simulation(benchmark: BenchmarkFixture) -> None:
    """10,000 tasks on 1,000 devices, from the first to the last."""
    fleet = Fleet("cuda", tuple(Device(str(n)) for n in range(1000)))
    found = benchmark.pedantic(lambda: simulate(tasks(10_000), fleet), rounds=1)
    assert found.unfinished == ()


def test_beside_trials_of_ten_seconds(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The share of a run's time that is the scheduler's: 32 such trials on 16 slots, the start of workers left out."""
    actor = tmp_path / "actor.py"
    actor.write_text(ACTOR)
    some = [replace(task, memory=0.0) for task in tasks(32)]
    starts: dict[str, float] = {}
    idle: list[float] = []  # from a worker's last word until the next one in its place is being started

    def watch(task: Task, event: dict[str, object]) -> None:
        if event["event"] == "done":
            starts[task.id] = time.monotonic()
        elif event["event"] == "started" and starts and len(idle) < 16:
            idle.append(time.monotonic() - max(starts.values()))

    def run() -> None:
        launcher = LocalLauncher(cpu(16), tmp_path / "runs", lambda _: [sys.executable, "-S", "-E", str(actor)])
        before, began = time.process_time(), time.monotonic()
        Coordinator(cpu(16), launcher).run(some, watch)
        wall = time.monotonic() - began
        benchmark.extra_info["of one core, in %"] = 100 * (time.process_time() - before) / wall
        benchmark.extra_info["from one trial to the next, in ms"] = 1000 * sum(idle) / len(idle)
        benchmark.extra_info["of ten seconds, in %"] = 100 * sum(idle) / len(idle) / 10

    benchmark.pedantic(run, rounds=1)
