"""The local backend passes the conformance suite, and what is its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT, wait_until
from executor_conformance import ExecutorConformance, alive

from kdbench.plan.fleet import Device, Fleet
from kdbench.plan.task import Task
from kdbench.schedule import Coordinator, Executor, LocalLauncher, local
from kdbench.trials.origins import Plugin


class TestLocal(ExecutorConformance):
    def make(self, fleet: Fleet, folder: Path, command: Callable[[Path], list[str]], **options: Any) -> Executor:
        return Coordinator(fleet, LocalLauncher(fleet, folder, command), **options)

    def test_a_worker_that_ignores_a_polite_end_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "GRACE", 0.3)

        def interrupt(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                signal.raise_signal(signal.SIGINT)

        assert self.run(1, self.task("t", "stubborn"), watch=interrupt).interrupted
        wait_until(lambda: not alive(self.journal("start")[0]["pid"]))

    def test_an_error_in_the_watcher_ends_the_workers(self) -> None:
        def fail(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            self.run(1, self.task("t", "parent"), watch=fail)
        (worker,) = self.journal("child")
        wait_until(lambda: not alive(worker["pid"]) and not alive(worker["child"]))

    def test_the_last_words_of_a_worker_are_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The thread that reads a worker may lag behind its end on a busy machine."""
        read = LocalLauncher._read

        def late(self: LocalLauncher, *arguments: Any) -> None:
            time.sleep(0.5)
            read(self, *arguments)

        monkeypatch.setattr(LocalLauncher, "_read", late)
        assert self.run(1, self.task("t", "refuse:fetch it again.")).failed == {"t": "fetch it again."}

    def test_workers_share_a_gpu_while_what_they_hold_fits(self) -> None:
        """Each is alone until it has said what it takes; tasks of which that is known follow beside it."""
        gpu = Fleet("cuda", (Device("7", slots=4, memory=1e9),))
        tasks = [replace(self.task(f"t{n}", "meal:4e8"), memory=4e8 * (n > 0)) for n in range(4)]
        command = [sys.executable, "-S", "-E", str(self.folder / "actor.py")]
        launcher = LocalLauncher(gpu, self.folder / "runs", lambda file: [*command, str(file)])
        report = Coordinator(gpu, launcher).run(tasks, lambda *_: None)
        assert len(report.finished) == 4
        starts, ends = ({line["id"]: line["t"] for line in self.journal(what)} for what in ("start", "end"))
        together = [sum(starts[other] <= begun < ends[other] for other in starts) for begun in starts.values()]
        assert max(together) == 2, "0.88 of 0.9 GB, and a third would be too much"
        assert {line["cuda"] for line in self.journal("start")} == {"7"}

    def test_a_full_disk_pauses_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdbench.schedule.coordinator.PAUSE", 0.2)
        write, full = Path.write_text, 3

        def no_room(path: Path, text: str, **options: Any) -> int:
            nonlocal full
            if path.name == "t.json" and full:
                full -= 1
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return write(path, text, **options)

        monkeypatch.setattr(Path, "write_text", no_room)
        report = self.run(1, self.task("t", "ok"), self.task("u", "ok"))
        assert sorted(task.id for task in report.finished) == ["t", "u"]
        (said,) = self.said("waiting")
        assert "No space left on device" in said["text"]
        assert "tries again by itself" in said["text"]

    def test_a_second_interrupt_ends_at_once(self) -> None:
        def interrupt(_: str, event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
                signal.raise_signal(signal.SIGINT)

        began = time.monotonic()
        assert self.run(1, self.task("t", "stubborn"), watch=interrupt).interrupted
        assert time.monotonic() - began < local.GRACE
        wait_until(lambda: not alive(self.journal("start")[0]["pid"]))

    def test_more_slots_than_devices_share_them(self) -> None:
        self.run(3, *(self.task(f"t{n}", "sleep:0.3") for n in range(3)), devices=("4", "7"))
        assert sorted(line["cuda"] for line in self.journal("start")) == ["4", "4", "7"]

    def test_standard_input_stays_open_as_long_as_the_parent_lives(self) -> None:
        """A worker ends itself when it closes, so it must not be closed at the start."""
        (self.folder / "actor.py").write_text(
            'import select; select.select([0], [], [], 0.3)[0] or print(\'{"event": "done"}\')'
        )
        assert self.run(1, self.task("t", "ok")).failed == {}

    def test_what_it_told_of_its_progress_is_no_reason(self) -> None:
        log = self.folder / "log"
        log.write_text("Traceback:\nKeyError: 'x'\n2026-11-30 00:24:59 kd: epoch 3: ce 1.0, top-1 50.00\n\n")
        assert local.last_line(log) == " (KeyError: 'x')"
        log.write_text("2026-11-30 00:24:59 kd: epoch 3: ce 1.0, top-1 50.00\n")
        assert local.last_line(log) == ""

    def test_its_log_keeps_what_a_worker_printed(self) -> None:
        self.run(1, self.task("t", "fail:1"))
        assert "Traceback" in (self.folder / "runs" / "t.log").read_text()


def test_the_parents_death_closes_standard_input(tmp_path: Path) -> None:
    """kill -9 on the parent: a worker that watches its standard input sees it close."""
    actor = tmp_path / "actor.py"
    actor.write_text(f"import os, sys; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); sys.stdin.read()")
    parent = f"""
import sys
from pathlib import Path
from kdbench.plan.fleet import Fleet
from kdbench.plan.task import Task
from kdbench.plan.fleet import cpu
from kdbench.schedule import Coordinator, LocalLauncher
here = Path({str(tmp_path)!r})
task = Task("t", "t", (), None, "digits", "0" * 64, "s@1", here, here, here, "cpu")
command = [sys.executable, "-S", {str(actor)!r}]
launcher = LocalLauncher(cpu(), here / "runs", command=lambda file: command)
Coordinator(cpu(), launcher).run([task], lambda *_: None)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], env={**os.environ, "PYTHONPATH": str(ROOT)})
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert alive(pid)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(pid))


def test_a_task_survives_its_file(tmp_path: Path) -> None:
    from dataclasses import replace

    from test_trial import IMPORTED, TRIAL

    task = Task(
        "t",
        "t",
        (TRIAL, replace(TRIAL, teacher=None)),
        IMPORTED,
        "digits",
        "0" * 64,
        "s@1",
        tmp_path,
        tmp_path,
        tmp_path,
        "cpu",
    )
    task = replace(
        task, plugins=(Plugin("a.py", "0" * 64, path="/a.py"),), warnings=("w",), after=("x",), cost=2.5, attempt=3
    )
    assert Task.from_json(task.to_json()) == task
