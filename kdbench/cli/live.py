"""``runs/<run>.live.json``: what a run does now, for whoever looks from another terminal or node."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from kdbench.cli.following import Following, Running, clock
from kdbench.errors import UserError
from kdbench.folders import write_atomically
from kdbench.records.runs import live_paths, read_live

#: How a run stands that has a live file.
State = Literal["running", "silent", "stopped"]
#: Seconds between two heartbeats.
BEAT = 2.0
#: Seconds after which a heartbeat is old.
OLD = 60.0
#: Seconds in which a run elsewhere, whose clock may differ, has a heartbeat for certain.
LOOK = 3 * BEAT
#: Of the time, what any one call that beats may take.
SHARE = 0.01
#: Failures that are kept in the file, the latest.
FAILURES = 100


class LiveFile:
    """Writes what ``following`` knows of the run ``head``; where that cannot be written, the next heartbeat tries."""

    def __init__(self, path: Path, head: Mapping[str, Any], following: Following) -> None:
        self.path, self.head, self.following = path, head, following

    def write(self) -> None:
        data = json.dumps(self._document(), indent=1, allow_nan=False).encode() + b"\n"
        with contextlib.suppress(OSError):
            if self.path.parent.is_dir():  # the folder of a disk that is gone is not to be made anew
                write_atomically(self.path, data)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _document(self) -> dict[str, Any]:
        known = self.following
        with known.lock:
            return {
                **self.head,
                "heartbeat": clock(time.time()),
                "trials": {
                    "planned": known.trials,
                    "finished": known.counts["finished"],
                    "inapplicable": known.counts["inapplicable"],
                    "failed": known.failed,
                    "running": known.busy,
                    "waiting": known.waiting,
                },
                "time_left": known.time_left(),
                "running": [self._running(line) for line in known.running.values()],
                "failures": [vars(failure) for failure in known.failures[-FAILURES:]],
            }

    def _running(self, line: Running) -> dict[str, Any]:
        return {
            "task": line.task.id,
            "title": line.task.title,
            "students": [trial.title for trial in self.following.students(line.task)],
            "since": clock(line.since),
            "heard": clock(line.heard),
            "loss": _finite(line.loss),
            "top1": _finite(line.top1),
            "images_per_s": _finite(line.images_per_s),
            **{name: getattr(line, name) for name in ("host", "device", "slot", "pid", "attempt", "memory", "log")},
            **{name: getattr(line, name) for name in ("epoch", "step", "steps", "waiting")},
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@contextlib.contextmanager
def beating(*calls: Callable[[], object]) -> Iterator[None]:
    """Call each of ``calls`` now and every two seconds, from a thread of its own, until the block ends.

    One that takes its time, as the manifest of ten thousand trials does, is called more rarely.
    """
    ended, due = threading.Event(), dict.fromkeys(calls, 0.0)

    def beat() -> None:
        while not ended.wait(BEAT):
            for call in calls:
                if time.monotonic() < due[call]:
                    continue
                began = time.thread_time()
                with contextlib.suppress(OSError):  # standard output on a disk that is full
                    call()
                due[call] = time.monotonic() + min((time.thread_time() - began) / SHARE, OLD / 3)

    for call in calls:
        call()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def here() -> dict[str, Any]:
    """This process, as ``standing`` finds it again."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "process": _process(os.getpid())}


def live_runs(results: Path) -> list[dict[str, Any]]:
    """What the live files in ``results`` say, the earliest run first; one that cannot be read is left out."""
    found = []
    for path in live_paths(results):
        with contextlib.suppress(UserError):
            found.append(read_live(path))
    return found


def standing(results: Path, live: Mapping[str, Any]) -> State:
    """How a run stands: ``running``; ``silent``, where its process is there and says nothing; or ``stopped``.

    One on this machine is looked for among its processes. Of any other the heartbeat tells, compared with this
    machine's clock and, where that says it is old, with itself a moment later, as clocks differ.
    """
    fresh = time.time() - datetime.fromisoformat(live["heartbeat"]).timestamp() < OLD
    if live["host"] == socket.gethostname() and _space(live["process"]) == _space(_process(os.getpid())):
        if _process(live["pid"]) != live["process"] or not _there(live["pid"]):
            return "stopped"
        return "running" if fresh else "silent"
    return "running" if fresh or _beats(results, live["run"], live["heartbeat"]) else "stopped"


@cache
def _beats(results: Path, run: str, heartbeat: str) -> bool:
    """Whether another heartbeat than ``heartbeat`` comes while we look."""
    end = time.monotonic() + LOOK
    while time.monotonic() < end:
        time.sleep(BEAT / 4)
        if heartbeat not in {live["heartbeat"] for live in live_runs(results) if live["run"] == run}:
            return True
    return False


def _process(pid: int) -> str:
    """Where ``pid`` is counted and when that process began, where the system says so; empty where there is none."""
    try:
        state, *_, began = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:20]
        return "" if state in "ZX" else f"{os.readlink('/proc/self/ns/pid')} {began}"
    except OSError:
        return ""


def _space(process: str) -> str:
    return process.rpartition(" ")[0]


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
