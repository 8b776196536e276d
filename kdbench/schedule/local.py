"""The default backend: worker processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from kdbench.environment import pinned
from kdbench.errors import plain, reason
from kdbench.plan.fleet import Fleet
from kdbench.schedule.backends import Choice
from kdbench.schedule.base import Ending, Event, Executor, Grant
from kdbench.schedule.coordinator import Coordinator
from kdbench.schedule.devices import cores, find_fleet
from kdbench.schedule.queue import how

#: Seconds in which a worker that is told to end may save its students, before it is killed.
GRACE = 30.0
#: Seconds in which the last words of a worker that has ended are waited for.
LAST_WORDS = 5.0

Command = Callable[[Path], list[str]]


class LocalBackend:
    """This machine."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice

    def fleet(self, threads: int) -> Fleet:
        return find_fleet(self.choice.device, self.choice.slots, threads)

    def executor(self, fleet: Fleet, folder: Path) -> Executor:
        return Coordinator(fleet, LocalLauncher(fleet, folder), limit=self.choice.timeout)


def worker(task_file: Path) -> list[str]:
    """The command of a worker."""
    return [sys.executable, "-m", "kdbench.worker", str(task_file)]


@dataclass
class _Running:
    grant: Grant
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    reader: threading.Thread = field(init=False)
    #: When it is killed, if it was told to end.
    deadline: float | None = None


class LocalLauncher:
    """Starts workers as processes of this machine, each with its task's file and log in ``folder``."""

    def __init__(self, fleet: Fleet, folder: Path, command: Command = worker) -> None:
        self.fleet, self.folder, self.command = fleet, folder, command
        self._running: dict[int, _Running] = {}
        #: What workers say, and None where one has ended, so that nobody waits for the next turn to see that.
        self._said: queue.Queue[tuple[Grant, Event] | None] = queue.Queue()

    def start(self, grants: Sequence[Grant]) -> list[tuple[Grant, Exception]]:
        refused: list[tuple[Grant, Exception]] = []
        for grant in grants:
            try:
                self._start(grant)
            except OSError as error:  # no room on the disk, no process to be had
                refused.append((grant, error))
        return refused

    def _start(self, grant: Grant) -> None:
        task = grant.task
        self.folder.mkdir(parents=True, exist_ok=True)
        file, log_path = self.folder / f"{task.id}.json", self.folder / f"{task.id}.log"
        file.write_text(task.to_json(), encoding="utf-8")
        log = log_path.open("ab")
        try:
            process = subprocess.Popen(
                self.command(file),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(grant),
                start_new_session=True,
            )
        except BaseException:
            log.close()
            raise
        device = self.fleet.devices[grant.device].name
        began: Event = {"event": "started", "slot": grant.slots[0], "pid": process.pid, "attempt": task.attempt}
        self._said.put((grant, {**began, "host": socket.gethostname(), "device": device, "log": str(log_path)}))
        one = self._running[grant.id] = _Running(grant, process, log)
        one.reader = threading.Thread(target=self._read, args=(one,), daemon=True)
        one.reader.start()

    def _environment(self, grant: Grant) -> dict[str, str]:
        return environment(grant, self.fleet, cores())

    def _read(self, one: _Running) -> None:
        stdout = one.process.stdout
        assert stdout is not None
        for event in events_of(stdout):
            self._said.put((one.grant, event))
        one.process.wait()
        self._said.put(None)

    def hear(self, seconds: float) -> list[tuple[Grant, Event | Ending]]:
        heard: list[tuple[Grant, Event | Ending]] = list(self._drain(seconds))
        now = time.monotonic()
        for one in list(self._running.values()):
            if one.process.poll() is None:
                if one.deadline is not None and now > one.deadline:
                    _signal(one.process, signal.SIGKILL)
                continue
            _signal(one.process, signal.SIGKILL)  # whatever the worker left behind in its process group
            one.reader.join(LAST_WORDS)  # its last words may still be on their way
            heard += self._drain(0.0)
            heard.append((one.grant, self._ending(one)))
            del self._running[one.grant.id]
        return heard

    def _drain(self, seconds: float) -> Iterator[tuple[Grant, Event]]:
        with contextlib.suppress(queue.Empty):
            said = self._said.get(timeout=seconds) if seconds else self._said.get_nowait()
            while True:
                if said is not None:
                    yield said
                said = self._said.get_nowait()

    def _ending(self, one: _Running) -> Ending:
        one.log.close()
        if one.process.stdin is not None:
            with contextlib.suppress(OSError):
                one.process.stdin.close()
        code = one.process.returncode
        log = self.folder / f"{one.grant.task.id}.log"
        return Ending(code, f"{how(code)}{last_line(log) if code else ''}", str(log))

    def stop(self, grant: Grant) -> None:
        if one := self._running.get(grant.id):
            one.process.send_signal(signal.SIGTERM)  # to it alone: to save it may need those that decode for it
            one.deadline = one.deadline or time.monotonic() + GRACE

    def close(self) -> None:
        for one in self._running.values():
            self.stop(one.grant)
        while any(one.process.poll() is None for one in self._running.values()):
            try:
                self._kill_the_late()
                time.sleep(0.02)
            except KeyboardInterrupt:  # again: at once, then
                for one in self._running.values():
                    one.deadline = 0.0
        for one in self._running.values():
            _signal(one.process, signal.SIGKILL)
            one.reader.join(LAST_WORDS)

    def _kill_the_late(self) -> None:
        for one in self._running.values():
            if one.process.poll() is None and one.deadline is not None and time.monotonic() > one.deadline:
                _signal(one.process, signal.SIGKILL)


def environment(grant: Grant, fleet: Fleet, cores: int) -> dict[str, str]:
    """The variables of the worker for ``grant``, on a machine of that many ``cores``: its device and its threads."""
    threads, on_gpu = str(grant.task.threads), fleet.kind == "cuda"
    return {
        "KDBENCH_DECODERS": str(cores // fleet.slots if on_gpu else 0),
        **pinned(os.environ),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": fleet.devices[grant.device].name if on_gpu else "",
    }


def events_of(lines: IO[bytes]) -> Iterator[Event]:
    """The events among ``lines``; whatever else a library has printed is passed over."""
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def last_line(log: Path) -> str:
    """The last line of a worker's ``log``, which says what was raised, in brackets; empty where it has none."""
    try:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if plain(line).strip()]
    except OSError:
        return ""
    return f" ({reason(lines[-1])})" if lines else ""


def _signal(process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    """Send ``sign`` to a worker and everything in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sign)
