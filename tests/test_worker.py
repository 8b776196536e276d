"""The worker process: events alone on standard output, claims, and its end with whoever started it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from bench import PATIENCE, Bench, same_bits, suite_text, wait_until

from kdbench.jobs import worker
from kdbench.jobs.claims import claimed
from kdbench.jobs.worker import run
from kdbench.plan.task import EXIT_DEVICE, EXIT_REFUSED, Task
from kdbench.plugins import load_plugins
from kdbench.suites import Suite
from kdbench.trials.origins import Plugin

MakeSuite = Callable[[str], Suite]


@pytest.fixture
def task(bench: Bench, make_suite: MakeSuite) -> Task:
    (made,) = bench.tasks(bench.trials(make_suite(suite_text(["ce"], epochs=1))))
    return made


def start(bench: Bench, task: Task, **streams: Any) -> subprocess.Popen[bytes]:
    file = bench.folder / "task.json"
    file.write_text(task.to_json())
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([sys.executable, "-m", "kdbench.worker", str(file)], env=bench.environment(), **options)


def with_plugin(bench: Bench, task: Task, source: str) -> Task:
    """``task`` with a plugin file that is run as soon as the worker begins."""
    from dataclasses import replace

    path = bench.folder / "early_plugin.py"
    path.write_text(source)
    return replace(task, plugins=(Plugin(path.name, sha256(path.read_bytes()).hexdigest(), path=str(path)),))


def test_a_gpu_that_fails_has_an_exit_code_of_its_own(
    bench: Bench, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker in this process, whose streams stay what they are."""
    plugin = bench.plugin("fatal", loss="raise torch.AcceleratorError('CUDA error')")
    load_plugins([plugin])
    (task,) = bench.tasks(bench.trials(make_suite(suite_text(["fatal"], epochs=1))), [plugin])
    (bench.folder / "task.json").write_text(task.to_json())
    events = io.StringIO()
    monkeypatch.setattr(worker, "_claim_stdout", lambda: events)
    monkeypatch.setattr(worker, "_heed", lambda pulse: None)
    assert worker.main([str(bench.folder / "task.json")]) == EXIT_DEVICE
    assert '"trial"' not in events.getvalue()
    assert bench.records() == {}


def test_a_refusal_is_one_event_and_an_exit_code_of_its_own(bench: Bench, task: Task) -> None:
    """Whatever is printed on the way, by Python or by a C library, goes to standard error."""
    noisy = with_plugin(bench, task, "import os\nprint('hello')\nos.system('echo from C')\nos.write(1, b'raw\\n')\n")
    process = start(bench, noisy)
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    assert process.wait(PATIENCE) == EXIT_REFUSED
    (event,) = map(json.loads, out.splitlines())
    assert event["event"] == "refused"
    assert "defines no MethodSpec" in event["text"]
    assert all(word in err.decode() for word in ("hello", "from C", "raw"))


def test_it_ends_when_its_standard_input_closes_and_not_before(bench: Bench, task: Task) -> None:
    mark = bench.folder / "begun"
    process = start(bench, with_plugin(bench, task, f"import time\nopen({str(mark)!r}, 'w')\ntime.sleep(600)\n"))
    wait_until(mark.exists)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE) == 3


def test_a_parent_that_is_gone_is_no_fault_of_the_trial(bench: Bench, task: Task) -> None:
    """An event that cannot be written ends the worker: no trial counts as crashed for it, no checkpoint is lost."""

    def gone(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(task, gone)
    assert bench.records() == {}


def test_a_second_run_waits_for_the_first_and_trains_nothing_again(bench: Bench, task: Task) -> None:
    other = bench.again("other")
    other.train(task.trials)
    events: list[dict[str, Any]] = []
    with claimed(task.cache / "claims", [task.trials[0].key], print):
        second = threading.Thread(target=run, args=(task, events.append))
        second.start()
        wait_until(lambda: events)
        assert events[0]["event"] == "waiting"
        shutil.copytree(other.folder / "results", bench.folder / "results")
    second.join(PATIENCE)
    assert not second.is_alive()
    assert [event["event"] for event in events if event["event"] != "alive"] == ["waiting"]


def test_two_workers_at_one_trial_leave_equal_records(bench: Bench, make_suite: MakeSuite) -> None:
    """Where claims do not hold, here as none can be made: neither spoils the other's checkpoints."""
    trials = bench.trials(make_suite(suite_text(["ce"], batch=100)))
    (task,) = bench.tasks(trials)
    task.cache.mkdir(exist_ok=True)
    (task.cache / "claims").write_text("in its place")
    file = bench.folder / "task.json"
    file.write_text(task.to_json())
    environment = bench.environment(KDBENCH_CHECKPOINT_SECONDS="0")
    command = [sys.executable, "-m", "kdbench.worker", str(file)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    said = [_events(process) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("cannot be saved" not in str(events) for events in said)
    files = bench.store.paths([trials[0].key])[trials[0].key]
    records = [bench.store.load(path) for path in files]
    assert 1 <= len(records) <= 2
    assert all(same_bits(records[0], record) for record in records)
    assert list((task.cache / "checkpoints").iterdir()) == []
    assert same_bits(bench.records()["ce"], bench.again("alone").train(trials)["ce"])


def _events(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """All that a worker says until it ends."""
    assert process.stdout is not None
    found = [json.loads(line) for line in process.stdout]
    process.wait(PATIENCE)
    return found


def test_a_task_may_hold_several_cohorts(bench: Bench, make_suite: MakeSuite) -> None:
    from dataclasses import replace

    trials = bench.trials(make_suite(suite_text(["ce"], epochs=1, seeds=[0, 1])))
    run(replace(bench.template(trials[0]), trials=tuple(trials)), bench.events.append)
    assert {r["seed"]: r["cost"]["cohort_size"] for r in bench.store.read()[0]} == {0: 1, 1: 1}
