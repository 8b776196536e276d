"""What every backend must do, as a class of tests. A backend's own tests derive from it and define ``make``.

The workers are a small script (``ACTOR``) that does what its task's suite says and writes what it saw into a journal.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attack.faults import Scene, damage_cache, kill_worker
from attack.nodes import Nodes
from bench import ROOT, Bench, same_bits, suite_text, wait_until
from test_trial import TRIAL

from kdbench.plan.fleet import Device, Fleet, cpu
from kdbench.plan.task import Task
from kdbench.plugins import load_plugins
from kdbench.schedule import Executor, Report, local
from kdbench.schedule.devices import dealt
from kdbench.suites.suite import parse_suite
from kdbench.trials.origins import Plugin

ACTOR = r"""
import json, os, signal, subprocess, sys, time

task = json.load(open(sys.argv[1]))
journal = os.path.join(task["results"], "journal")

def note(what, **more):
    told = {"id": task["id"], "attempt": task["attempt"], "what": what, "t": time.monotonic(), "pid": os.getpid()}
    told["cuda"], told["threads"] = map(os.environ.get, ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"))
    with open(journal, "a") as stream:
        stream.write(json.dumps({**told, **more}) + "\n")

def say(**event):
    print(json.dumps(event), flush=True)

note("start")
word, _, argument = task["suite"].partition(":")
if word == "sleep":
    time.sleep(float(argument))
elif word == "meet":  # until so many have started
    while open(journal).read().count('"what": "start"') < int(argument):
        time.sleep(0.01)
    time.sleep(0.1)  # for one too many to start, too
elif word == "die" and task["attempt"] <= int(argument):
    say(event="progress")
    os.kill(os.getpid(), signal.SIGKILL)
elif word == "fail":
    print("Traceback (most recent call last):\n  a line\nValueError: no luck\n", file=sys.stderr)
    sys.exit(int(argument))
elif word == "refuse":
    say(event="refused", text=argument)
    sys.exit(4)
elif word == "flood":
    for number in range(3000):
        say(event="progress", number=number, padding="x" * 100)
    say(event="refused", text=argument)
    sys.exit(4)
elif word == "hang":
    time.sleep(600)
elif word == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(event="ready")
    time.sleep(600)
elif word == "chat":
    for _ in range(10):
        say(event="progress")
        time.sleep(float(argument))
elif word == "meal":  # of so many bytes
    say(event="memory", peak=float(argument))
    time.sleep(0.5)
elif word == "room" and len(task["trials"]) > int(argument):  # for so many trials
    sys.exit(6)
elif word == "noise":
    print("hello\n[]\n3\n{}\nnull\n{broken", flush=True)
    sys.stdout.buffer.write(b"\xff\xfe\n")
    say(event="said")
elif word == "wait":
    say(event="waiting", text="for a lock")
    time.sleep(float(argument))
elif word == "poison" and any(trial["seed"] == 0 for trial in task["trials"]):
    say(event="progress")
    if argument.isdigit():
        os._exit(int(argument))
    os.kill(os.getpid(), signal.SIGKILL) if argument == "kill" else time.sleep(600)
elif word in ("parent", "leaver"):
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    note("child", child=child.pid)
    say(event="ready")
    if word == "parent":
        time.sleep(600)
note("end")
if word != "early":
    say(event="done")
"""


def decided(check: Callable[..., None]) -> Callable[..., None]:
    """A check of what the queue and the coordinator decide, whoever starts workers."""
    check.decided = True  # type: ignore[attr-defined]
    return check


def on_a_cluster(backend: type[ExecutorConformance]) -> type[ExecutorConformance]:
    """There a worker takes seconds to start: checks of what others decide are for those who have the time."""
    for name, check in list(vars(ExecutorConformance).items()):
        if getattr(check, "decided", False) and name not in vars(backend):
            own = functools.wraps(check)(lambda *given, check=check, **named: check(*given, **named))
            setattr(backend, name, pytest.mark.slow(own))
    return backend


class ExecutorConformance:
    """Derive from this, define ``make``, and every check below is run on that backend.

    ``devices``: two GPUs that it has, by their names, and how many of each name. ``faults``: what can go wrong there
    besides, with ``nodes``.
    """

    devices: tuple[str, str] = ("4", "7")
    alike = 1
    faults: tuple[Callable[[Scene], bool], ...] = ()
    nodes: Nodes | None = None

    def make(self, fleet: Fleet, folder: Path, command: Callable[[Path], list[str]], **options: Any) -> Executor:
        """A backend on ``fleet`` that starts ``command(task file)``; options: silence, limit, retries."""
        raise AssertionError("a backend's tests define make")

    @pytest.fixture(autouse=True)
    def _stage(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.events: list[tuple[str, dict[str, Any]]] = []
        (tmp_path / "actor.py").write_text(ACTOR)

    @pytest.fixture
    def silence(self) -> float:
        """Seconds that are too long without a word: many times what a worker takes to start, here and now."""
        began = time.monotonic()
        subprocess.run([sys.executable, "-S", "-E", "-c", "import json, subprocess"], check=True)
        return max(0.5, 20 * (time.monotonic() - began))

    def task(self, name: str, does: str, after: Sequence[str] = ()) -> Task:
        empty = Task(name, does, (), None, "digits", "0" * 64, does, self.folder, self.folder, self.folder, "cpu")
        return replace(empty, after=tuple(after))

    def run(
        self,
        slots: int,
        *tasks: Task,
        watch: Callable[[str, dict[str, Any]], object] | None = None,
        devices: Sequence[str] = (),
        **options: Any,
    ) -> Report:
        def listen(task: Task, event: dict[str, Any]) -> None:
            self.events.append((task.id, event))
            if watch is not None:
                watch(task.id, event)

        fleet = dealt([Device(name) for name in devices], slots) if devices else cpu(slots)
        return self.make(fleet, self.folder / "runs", self.command, **options).run(list(tasks), listen)

    def command(self, file: Path) -> list[str]:
        return [sys.executable, "-S", "-E", str(self.folder / "actor.py"), str(file)]

    def journal(self, what: str, name: str = "") -> list[dict[str, Any]]:
        path = self.folder / "journal"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["what"] == what and name in ("", line["id"])]

    def said(self, what: str, name: str = "") -> list[dict[str, Any]]:
        return [event for who, event in self.events if event["event"] == what and name in ("", who)]

    def test_never_more_at_once_than_slots_and_no_fewer(self) -> None:
        report = self.run(2, *(self.task(f"t{n}", f"meet:{n // 2 * 2 + 2}") for n in range(6)))
        assert sorted(task.id for task in report.finished) == [f"t{n}" for n in range(6)]
        assert (report.failed, report.interrupted) == ({}, False)
        moments = [(line["t"], 1) for line in self.journal("start")] + [(line["t"], -1) for line in self.journal("end")]
        running, most = 0, 0
        for _, change in sorted(moments):
            running += change
            most = max(most, running)
        assert most == 2

    @decided
    def test_tasks_start_in_their_order(self) -> None:
        self.run(1, *(self.task(f"t{n}", "ok") for n in (3, 1, 2)))
        assert [line["id"] for line in self.journal("start")] == ["t3", "t1", "t2"]

    def test_what_comes_after_waits_and_the_rest_does_not(self) -> None:
        student = self.task("student", "ok", ["teacher"])
        report = self.run(2, student, self.task("other", "ok"), self.task("teacher", "sleep:0.4"))
        assert len(report.finished) == 3
        (ready,) = self.journal("end", "teacher")
        assert self.journal("start", "student")[0]["t"] > ready["t"]
        assert self.journal("end", "other")[0]["t"] < ready["t"]

    @decided
    def test_students_of_a_failed_teacher_fail_with_its_reason_and_others_go_on(self) -> None:
        report = self.run(
            1,
            self.task("teacher", "refuse:the weights are not the pinned ones."),
            self.task("student", "ok", ["teacher"]),
            self.task("students student", "ok", ["student"]),
            self.task("other", "ok"),
        )
        reason = "the weights are not the pinned ones."
        assert report.failed == {"teacher": reason, "student": reason, "students student": reason}
        assert [task.id for task in report.finished] == ["other"]
        assert not self.journal("start", "student")
        assert self.said("failed", "student")[0]["dependent"]

    @decided
    def test_trials_that_need_no_teacher_are_run_without_it(self) -> None:
        trials = (replace(TRIAL, seed=0), replace(TRIAL, seed=1, teacher=None), replace(TRIAL, seed=2))
        students = replace(self.task("students", "ok", ["teacher"]), trials=trials)
        report = self.run(1, self.task("teacher", "refuse:it diverged."), students)
        assert report.failed == {"teacher": "it diverged.", "students": "it diverged."}
        assert [[trial.seed for trial in task.trials] for task in report.finished] == [[1]]

    @decided
    def test_a_failed_teacher_fails_a_whole_line_even_when_nothing_else_is_left(self) -> None:
        line = [self.task("t0", "refuse:no."), *(self.task(f"t{n}", "ok", [f"t{n - 1}"]) for n in (1, 2, 3))]
        assert self.run(1, *line).failed == dict.fromkeys(("t0", "t1", "t2", "t3"), "no.")
        assert len(self.said("failed")) == 4

    def test_each_task_is_told_its_device(self) -> None:
        slots = 2 * self.alike
        self.run(
            slots, *(self.task(f"t{n}", f"meet:{slots}") for n in range(2 * slots)), devices=self.devices * self.alike
        )
        starts, ends = self.journal("start"), {line["id"]: line["t"] for line in self.journal("end")}
        for one in starts:
            together = [other["cuda"] for other in starts if other["t"] <= one["t"] < ends[other["id"]]]
            assert set(together) <= set(self.devices)
            assert max(map(together.count, together)) <= self.alike
        assert {line["cuda"] for line in starts} == set(self.devices)
        assert {event["device"] for event in self.said("started")} == set(self.devices)

    def test_a_cpu_task_sees_no_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        self.run(1, self.task("t", "ok"))
        (start,) = self.journal("start")
        assert (start["cuda"], start["threads"]) == ("", "1")

    def test_a_killed_worker_is_tried_again_and_counted(self) -> None:
        report = self.run(1, self.task("t", "die:1"), retries=2)
        assert [line["attempt"] for line in self.journal("start")] == [1, 2]
        assert [task.attempt for task in report.finished] == [2]
        assert "SIGKILL" in self.said("retried")[0]["text"]

    @decided
    def test_a_worker_that_is_always_killed_is_given_up(self) -> None:
        report = self.run(1, self.task("t", "die:9"), self.task("u", "ok"), retries=2)
        assert [line["attempt"] for line in self.journal("start", "t")] == [1, 2, 3]
        assert "SIGKILL" in report.failed["t"]
        assert [task.id for task in report.finished] == ["u"]

    def test_an_error_is_not_tried_again_and_its_last_line_is_told(self) -> None:
        report = self.run(1, self.task("t", "fail:1"), retries=2)
        assert len(self.journal("start")) == 1
        assert "ended with code 1" in report.failed["t"]
        assert "ValueError: no luck" in report.failed["t"]
        assert "Traceback" not in report.failed["t"]
        assert "\n" not in report.failed["t"]

    @decided
    @pytest.mark.parametrize(
        ("end", "words", "starts"),
        [
            ("1", "ended with code 1", 4),
            ("7", "ended with code 7", 4),
            ("kill", "SIGKILL", 5),
            ("silence", "no word", 4),
        ],
    )
    def test_a_trial_that_takes_its_worker_down_does_so_alone_at_last(
        self, silence: float, end: str, words: str, starts: int
    ) -> None:
        """The others of its cohort are finished, each in a worker of its own, which goes on from its checkpoint."""
        trials = tuple(replace(TRIAL, seed=seed) for seed in range(3))
        task = replace(self.task("t", f"poison:{end}"), trials=trials, cost=6.0)
        report = self.run(2, task, self.task("u", "ok"), silence=silence, retries=2)
        done = [trial.seed for task in report.finished for trial in task.trials]
        assert sorted(done) == [1, 2]
        ((name, reason),) = report.failed.items()
        assert words in reason
        assert name != "t"
        assert len(self.journal("start")) - 1 == starts
        assert sum(t.cost for t in report.finished) == pytest.approx(4.0)
        assert "one by one" in self.said("retried", "t")[-1]["text"]
        assert bool(self.said("failed")[0].get("timed_out")) == (end == "silence")

    @decided
    def test_trials_of_other_peoples_code_come_last_when_their_task_falls_apart(self) -> None:
        trials = tuple(replace(TRIAL, seed=seed) for seed in range(2))
        plugin = (Plugin("a.py", "0" * 64, path="/a.py"),)
        foreign = replace(self.task("foreign", "poison:7"), trials=trials, plugins=plugin)
        self.run(1, foreign, self.task("u", "ok"), self.task("v", "ok"))
        assert [line["id"] for line in self.journal("start")][:3] == ["foreign", "u", "v"]

    @decided
    def test_no_worker_is_blamed_for_a_time_when_nobody_listened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The machine slept, or somebody stopped this process and let it go on."""
        monkeypatch.setattr("kdbench.schedule.coordinator.STANDSTILL", 0.5)

        def asleep(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "started":
                time.sleep(3.0)

        report = self.run(1, self.task("t", "sleep:4"), silence=2.5, watch=asleep)
        assert report.failed == {}

    @decided
    def test_an_exit_without_a_last_word_is_no_success(self) -> None:
        report = self.run(1, self.task("t", "early"))
        assert not report.finished
        assert "ended with code 0" in report.failed["t"]

    @decided
    def test_what_is_refused_is_not_tried_one_by_one(self) -> None:
        task = replace(self.task("t", "refuse:no."), trials=(TRIAL, replace(TRIAL, seed=1)))
        assert list(self.run(1, task).failed) == ["t"]
        assert len(self.journal("start")) == 1

    def test_a_refusal_is_told_in_the_workers_own_words(self) -> None:
        assert self.run(1, self.task("t", "refuse:fetch the file again.")).failed == {"t": "fetch the file again."}

    def test_nothing_a_worker_said_is_lost_when_it_ends(self) -> None:
        report = self.run(1, self.task("t", "flood:at last."))
        assert report.failed == {"t": "at last."}
        assert [event["number"] for event in self.said("progress")] == list(range(3000))
        assert [event["event"] for _, event in self.events][-2:] == ["refused", "failed"]

    def test_what_is_no_event_is_passed_over(self) -> None:
        report = self.run(1, self.task("t", "noise"))
        assert len(report.finished) == 1
        assert [event["event"] for _, event in self.events] == ["started", "said", "done", "ended"]

    def test_a_silent_worker_is_ended_and_not_tried_again(self, silence: float) -> None:
        report = self.run(2, self.task("t", "hang"), self.task("u", "ok"), silence=silence, retries=2)
        assert "no word from its worker" in report.failed["t"]
        assert self.said("failed", "t")[0]["timed_out"]
        assert len(self.journal("start", "t")) == 1
        assert [task.id for task in report.finished] == ["u"]
        wait_until(lambda: not alive(self.journal("start", "t")[0]["pid"]))

    @decided
    def test_a_worker_that_speaks_is_not_silent(self, silence: float) -> None:
        assert self.run(1, self.task("t", f"chat:{silence / 8}"), silence=silence).failed == {}

    @decided
    def test_a_worker_that_only_talks_is_ended_where_time_is_limited(self, silence: float) -> None:
        report = self.run(2, self.task("t", "chat:1"), self.task("u", "ok"), limit=silence, retries=2)
        assert "no record from its worker within" in report.failed["t"]
        assert self.said("failed", "t")[0]["timed_out"]
        assert len(self.journal("start", "t")) == 1
        assert [task.id for task in report.finished] == ["u"]

    @decided
    def test_a_cohort_that_has_no_memory_is_split_until_it_has(self) -> None:
        trials = tuple(replace(TRIAL, seed=seed) for seed in range(4))
        report = self.run(2, replace(self.task("t", "room:1"), trials=trials))
        assert report.failed == {}
        assert sorted(trial.seed for task in report.finished for trial in task.trials) == [0, 1, 2, 3]
        assert len(self.journal("start")) == 7
        assert all("out of memory" in event["text"] for event in self.said("retried"))

    @decided
    def test_a_worker_that_waits_for_a_lock_is_not_silent(self, silence: float) -> None:
        assert self.run(1, self.task("t", f"wait:{1.2 * silence}"), silence=silence).failed == {}

    @pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_ends_workers_and_their_children(self, sign: signal.Signals) -> None:
        def interrupt(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                signal.raise_signal(sign)

        done, waiting = self.task("done", "ok"), self.task("waiting", "ok", ["t"])
        before = signal.getsignal(signal.SIGTERM)
        report = self.run(1, done, self.task("t", "parent"), waiting, watch=interrupt)
        assert report.interrupted
        assert [task.id for task in report.finished] == ["done"]
        assert not self.journal("start", "waiting")
        (worker,) = self.journal("child", "t")
        wait_until(lambda: not alive(worker["pid"]) and not alive(worker["child"]))
        assert signal.getsignal(signal.SIGTERM) == before

    def test_what_a_worker_leaves_running_is_ended(self) -> None:
        assert len(self.run(1, self.task("t", "leaver")).finished) == 1
        (worker,) = self.journal("child")
        wait_until(lambda: not alive(worker["child"]))

    def test_runs_share_their_work_and_leave_the_records_of_a_quiet_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two at once, and then one more: each trial is trained once, with the bits of this very process.

        One task is enough: what makes them share is the worker's (tests/test_claims.py), and each start takes seconds.
        """
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        bench = Bench(self.folder)
        quiet = bench.again("quiet")
        trials = bench.trials(parse_suite(suite_text(("ce",)), "a test"))
        tasks, wanted = bench.tasks(trials), quiet.train(trials)
        told: list[tuple[str, dict[str, Any]]] = []

        def run(name: str) -> Report:
            executor = self.make(cpu(2), self.folder / name, local.worker)
            return executor.run(tasks, lambda _, event: told.append((name, event)))

        with ThreadPoolExecutor() as pool:
            reports = list(pool.map(run, ("one", "other")))
        files = sorted(bench.store.root.rglob("*.json"))
        reports.append(run("late"))
        assert [len(report.finished) for report in reports] == [len(tasks)] * 3
        records = bench.records()
        assert all(same_bits(records[label], wanted[label]) for label in wanted)
        assert sorted(bench.store.root.rglob("*.json")) == files
        trained = [event["title"] for _, event in told if event["event"] == "trial" and not event["teacher"]]
        assert sorted(trained) == sorted(trial.title for trial in trials)

    def test_whatever_goes_wrong_the_record_is_that_of_a_quiet_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The attack (tests/attack) in short: as soon as a worker has trained for an epoch, the next fault.

        Its method takes its time until all of them are made, so that no worker ends before.
        """
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("KDBENCH_CHECKPOINT_SECONDS", "0")
        bench, scene = Bench(self.folder), Scene(self.folder, [], random.Random(1))
        scene.nodes = self.nodes
        faults = [kill_worker, lambda scene: damage_cache(scene) and kill_worker(scene), *self.faults]
        over = self.folder / "over"
        slow = bench.plugin("slow", loss=f"os.path.exists({str(over)!r}) or __import__('time').sleep(0.1)")
        load_plugins([slow])
        trials = bench.trials(parse_suite(suite_text(("slow",), epochs=30), "a test"))

        def disturb(_: Task, event: dict[str, Any]) -> None:
            if event["event"] == "epoch" and faults and scene.workers() and faults[0](scene):
                del faults[0]
                if not faults:
                    over.touch()

        executor = self.make(cpu(1), self.folder / "runs", local.worker, retries=9)
        report = executor.run(bench.tasks(trials, [slow]), disturb)
        assert not report.failed, report.failed
        assert not faults
        assert report.finished[0].attempt > 2 + len(self.faults), self.said("retried")
        assert same_bits(bench.records()["slow"], bench.again("quiet").train(trials, [slow])["slow"])

    def test_a_duplicate_counts_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A node that was given up goes on and records, too; its claims are not seen by others.

        The method takes its time until both are at work: who starts later would find the record of the other.
        """
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        bench, over = Bench(self.folder), self.folder / "over"
        slow = bench.plugin("slow", loss=f"os.path.exists({str(over)!r}) or __import__('time').sleep(0.1)")
        load_plugins([slow])
        trials = bench.trials(parse_suite(suite_text(("slow",), epochs=50), "a test"))
        (task,) = bench.tasks(trials, [slow])
        twin = replace(task, id="twin", cache=self.folder / "elsewhere")
        at_work: set[str] = set()

        def watch(task: Task, event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                at_work.add(task.id)
            if len(at_work) == 2:
                over.touch()

        report = self.make(cpu(2), self.folder / "runs", local.worker).run([task, twin], watch)
        assert len(report.finished) == 2
        assert len(bench.store.read()[0]) == 2
        assert list(bench.records()) == ["slow"]

    def test_nothing_to_do(self) -> None:
        report = self.run(2)
        assert (report.finished, report.failed, report.interrupted) == ([], {}, False)


#: A worker that saves when it is told to end, and says so; the second attempt needs no more than that.
SAVER = r"""
import json, signal, sys, time

attempt = json.load(open(sys.argv[1]))["attempt"]

def end(*_):
    print(json.dumps({"event": "stopped"}), flush=True)
    sys.exit(7)

signal.signal(signal.SIGTERM, end)
print(json.dumps({"event": "ready", "attempt": attempt}), flush=True)
time.sleep(600 if attempt == 1 else 0)
print(json.dumps({"event": "done"}), flush=True)
"""


#: A worker that says where it is, and ends the first time when its standard input closes, as workers do.
WATCHFUL = r"""
import json, os, sys

attempt = json.load(open(sys.argv[1]))["attempt"]
here = {"node": os.environ.get("SLURMD_NODENAME"), "pid": os.getpid(), "parent": os.getppid()}
print(json.dumps({"event": "ready", "attempt": attempt, **here}), flush=True)
if attempt == 1:
    sys.stdin.read()
    sys.exit(3)
print(json.dumps({"event": "done"}), flush=True)
"""


def leaves_the_same_records(bench: Bench, *flags: str) -> None:
    """``kdbench run`` with ``flags`` leaves the bits of a training in this process; again, and it trains nothing."""
    package = bench.install_suite(suite_text(("ce",), epochs=1))
    command = [sys.executable, "-m", "kdbench", "run", "--suite", "tiny", "--results", "results", "--summary", "none"]
    environment = bench.environment(package)
    for _ in range(2):
        ended = subprocess.run([*command, *flags], cwd=bench.folder, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
    quiet = bench.again("quiet")
    wanted = quiet.train(quiet.trials(parse_suite(suite_text(("ce",), epochs=1), "a test")))
    records = bench.records()
    assert list(records) == list(wanted) == ["ce"]
    assert same_bits(records["ce"], wanted["ce"])
    assert len(bench.store.read()[0]) == 1


def alive(pid: int) -> bool:
    """Whether ``pid`` runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
