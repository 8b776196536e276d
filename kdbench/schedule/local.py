"""The default backend: worker processes of this machine, one a slot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
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
from kdbench.plan.task import EXIT_DEVICE, EXIT_REFUSED, Task
from kdbench.schedule.base import Event, Report, Watch
from kdbench.schedule.devices import cores

#: A worker that dies without a word (killed, out of memory) is started again this often.
RETRIES = 2
#: Seconds a worker may be silent. It speaks every second while it trains; loading and evaluating take longer.
SILENCE = 1800.0
#: Seconds that one turn of the scheduler's loop may take; more, and the process was stopped, or the machine slept.
STANDSTILL = 10.0
#: Seconds between a polite and an impolite end.
GRACE = 5.0

Slot = int
Command = Callable[[Path], list[str]]


def _worker(task_file: Path) -> list[str]:
    return [sys.executable, "-m", "kdbench.worker", str(task_file)]


@dataclass
class _Running:
    task: Task
    slots: list[Slot]
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    reader: threading.Thread = field(init=False)
    heard: float = field(default_factory=time.monotonic)
    done: bool = False
    refusal: str = ""
    hung: bool = False


class LocalExecutor:
    """Slots on this machine.

    CPU slots, or slots dealt to the CUDA ``devices``, which share one where they are fewer.
    """

    def __init__(
        self,
        slots: int,
        folder: Path,
        *,
        devices: Sequence[str] = (),
        silence: float = SILENCE,
        retries: int = RETRIES,
        command: Command = _worker,
    ) -> None:
        self.slots, self.folder, self.devices = slots, folder, devices
        self.silence, self.retries, self.command = silence, retries, command
        self._events: queue.Queue[tuple[_Running, Event | None]] = queue.Queue()

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report:
        """Run ``tasks``; on Ctrl-C or SIGTERM end every worker, keep what landed, and say so in the Report."""
        report = Report()
        waiting = list(tasks)
        running: list[_Running] = []
        free = list(range(self.slots))
        self.folder.mkdir(parents=True, exist_ok=True)
        with _sigterm_as_interrupt():
            try:
                turned = time.monotonic()
                while waiting or running:
                    self._drop_hopeless(waiting, report, watch)
                    while (task := self._next(waiting, report, len(free))) is not None:
                        waiting.remove(task)
                        taken, free = free[: task.cores], free[task.cores :]
                        running.append(self._start(task, taken, watch))
                    if not running:
                        break
                    self._listen(watch)
                    for one in [r for r in running if r.process.poll() is not None]:
                        _end(one.process)  # whatever the worker left behind in its process group
                        one.reader.join(GRACE)  # its last words may still be on their way
                        self._drain(watch)
                        running.remove(one)
                        free += one.slots
                        self._ended(one, waiting, report, watch)
                    turned = self._allow_for_a_stop(running, turned)
                    self._end_hung(running)
            except KeyboardInterrupt:
                report.interrupted = True
            finally:
                for one in running:
                    _end(one.process)
                    one.log.close()
                self._drain(watch)
        return report

    def _next(self, waiting: Sequence[Task], report: Report, free: int) -> Task | None:
        """The first task that may begin, if it fits into the ``free`` slots; nothing overtakes it."""
        done = {task.id for task in report.finished}
        ready = next((task for task in waiting if set(task.after) <= done), None)
        return ready if ready is not None and min(ready.cores, self.slots) <= free else None

    def _drop_hopeless(self, waiting: list[Task], report: Report, watch: Watch) -> None:
        """Tasks whose teacher could not be made ready fail with its reason, and so do those that wait for them.

        Their trials that need no teacher are run all the same.
        """
        while hopeless := [task for task in waiting if set(task.after) & set(report.failed)]:
            for task in hopeless:
                waiting.remove(task)
                waiting += [alone for alone in [task.without_teacher()] if alone is not None]
                reason = next(report.failed[name] for name in task.after if name in report.failed)
                report.failed[task.id] = reason
                watch(task, {"event": "failed", "text": reason, "dependent": True})

    def _start(self, task: Task, slots: list[Slot], watch: Watch) -> _Running:
        file = self.folder / f"{task.id}.json"
        file.write_text(task.to_json(), encoding="utf-8")
        log = (self.folder / f"{task.id}.log").open("ab")
        process = subprocess.Popen(
            self.command(file),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=self._environment(task, slots[0]),
            start_new_session=True,
        )
        one = _Running(task, slots, process, log)
        one.reader = threading.Thread(target=self._read, args=(one,), daemon=True)
        one.reader.start()
        watch(task, {"event": "started", "slot": slots[0], "pid": process.pid, "attempt": task.attempt})
        return one

    def _environment(self, task: Task, slot: Slot) -> dict[str, str]:
        threads = str(task.threads)
        return {
            "KDBENCH_DECODERS": str(cores() // self.slots if self.devices else 0),
            **pinned(os.environ),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CUDA_VISIBLE_DEVICES": self.devices[slot % len(self.devices)] if self.devices else "",
        }

    def _read(self, one: _Running) -> None:
        stdout = one.process.stdout
        assert stdout is not None
        for line in stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    self._events.put((one, event))
        self._events.put((one, None))

    def _listen(self, watch: Watch) -> None:
        with contextlib.suppress(queue.Empty):
            self._hear(*self._events.get(timeout=0.1), watch)
            self._drain(watch)

    def _drain(self, watch: Watch) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._hear(*self._events.get_nowait(), watch)

    def _hear(self, one: _Running, event: Event | None, watch: Watch) -> None:
        one.heard = time.monotonic()
        if event is None:
            return
        if event["event"] == "waiting":
            one.heard += 1e9  # it holds still for another run's lock, which is no fault
        one.done = one.done or event["event"] == "done"
        if event["event"] == "refused":
            one.refusal = str(event.get("text", ""))
        watch(one.task, event)

    def _ended(self, one: _Running, waiting: list[Task], report: Report, watch: Watch) -> None:
        task, code = one.task, one.process.returncode
        one.log.close()
        if code == 0 and one.done:
            report.finished.append(task)
            watch(task, {"event": "ended"})
        elif self._worth_another_try(one):
            watch(task, {"event": "retried", "text": f"its worker {_how(code)}; another one goes on"})
            waiting.insert(0, dataclasses.replace(task, attempt=task.attempt + 1))
        elif len(task.trials) > 1 and code != EXIT_REFUSED:
            watch(task, {"event": "retried", "text": f"{self._why(one, code)}; its trials go on one by one"})
            place = len(waiting) if task.plugins else 0
            waiting[place:place] = _parts(task)  # those that run other people's code last
        else:
            report.failed[task.id] = one.refusal or f"{task.title}: {self._why(one, code)}."
            text, refused = report.failed[task.id], bool(one.refusal)
            watch(task, {"event": "failed", "text": text, "timed_out": one.hung, "refused": refused})

    def _worth_another_try(self, one: _Running) -> bool:
        """Whether it was ended from outside, or lost its GPU, of which one of several trials may be the cause.

        Several trials together are tried again once, and then one by one.
        """
        task, code = one.task, one.process.returncode
        several = len(task.trials) > 1
        outside = code < 0 or (code == EXIT_DEVICE and not several)
        return outside and not one.hung and task.attempt <= (min(self.retries, 1) if several else self.retries)

    def _why(self, one: _Running, code: int) -> str:
        """Why a worker gave up, as part of a sentence."""
        log = self.folder / f"{one.task.id}.log"
        if one.hung:
            return f"no word from its worker for {self.silence / 60:.3g} min, so it was ended; its log is {log}"
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if plain(line).strip()]
        last = f" ({reason(lines[-1])})" if lines else ""
        return f"its worker {_how(code)}{last}; its log is {log}"

    def _allow_for_a_stop(self, running: Sequence[_Running], turned: float) -> float:
        """The time now; where this process stood still since ``turned``, no worker is to blame for that silence."""
        now = time.monotonic()
        if now - turned > STANDSTILL:
            for one in running:
                one.heard += now - turned
        return now

    def _end_hung(self, running: Sequence[_Running]) -> None:
        for one in running:
            if time.monotonic() - one.heard > self.silence:
                one.hung = True
                _end(one.process)


def _parts(task: Task) -> list[Task]:
    """One task a trial.

    Whichever of them takes its process down does so alone, the others go on from their checkpoints.
    """
    return [
        dataclasses.replace(
            task,
            id=f"{task.id}-{trial.key[:8]}",
            title=trial.title,
            trials=(trial,),
            cost=task.cost / len(task.trials),
            attempt=task.attempt + 1,
            cores=1,
        )
        for trial in task.trials
    ]


def _how(code: int) -> str:
    """What an exit code says of a worker's end."""
    if code == EXIT_DEVICE:
        return "lost its GPU"
    if code >= 0:
        return f"ended with code {code}"
    name = next((sign.name for sign in signal.Signals if sign == -code), f"signal {-code}")
    return f"was ended by {name}{', as happens when memory runs out' if code == -signal.SIGKILL else ''}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and everything in its process group: politely, then for certain."""
    for sign, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends a run as Ctrl-C does, so that a batch system's end leaves no orphans either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
