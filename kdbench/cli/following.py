"""What is known of a run from the events of its workers; progress lines, the table and the live file show it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kdbench.plan.task import Task
from kdbench.schedule.base import Event
from kdbench.trials.trial import Trial

#: Statuses that are no result of a trial's own: a later run tries it again. ``left``: it was not even begun.
LOST = ("crashed", "timed_out", "left")
#: Seconds over which the pace is taken that tells the time left: machines become slower and faster as others use them.
RECENT = 300.0


@dataclass
class Running:
    """What is known of a running task. ``since`` and ``heard`` are times of day, in seconds."""

    task: Task
    slot: int | None = None
    host: str = ""
    device: str = ""
    pid: int | None = None
    attempt: int = 1
    log: str = ""
    since: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.time)
    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    top1: float | None = None
    images_per_s: float | None = None
    memory: int | None = None
    members: int = 1
    ended: int = 0
    #: What it waits for, until it speaks of anything else.
    waiting: str = ""

    @property
    def share(self) -> float:
        """How much of the task is done, 0 to 1: trials that ended, and the current cohort's part of the way."""
        way = self.members * self.step / self.steps if self.steps else 0.0
        return min((self.ended + way) / max(len(self.task.trials), 1), 1.0)


@dataclass(frozen=True)
class Failure:
    """A trial, a teacher or a task that did not end as it should. ``detail`` is a sentence, ``log`` empty or a path."""

    title: str
    status: str
    detail: str
    log: str = ""


class Following:
    """Takes in every event of a run. Its lock is for those who look at it from another thread."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.trials = sum(len(task.trials) for task in tasks)
        #: How many trials ended with each status.
        self.counts: Counter[str] = Counter()
        self.running: dict[str, Running] = {}
        #: Every task that was begun, by its id, with the path of its log where that is known.
        self.begun: dict[str, tuple[Task, str]] = {}
        self.failures: list[Failure] = []
        #: Why a trial has no end of its own, by its key: that of its task, or of its teacher.
        self.reasons: dict[str, str] = {}
        #: Tasks whose worker died, and the event that says so. Not those that were refused, or whose teacher failed.
        self.lost: list[tuple[Task, Event]] = []
        self.lock = threading.RLock()
        self._ended: set[str] = set()
        self._total = sum(task.cost for task in tasks)
        self._done_cost = 0.0
        #: How much was done when, now and then within RECENT, and at the very first.
        self._way: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)])

    def watch(self, task: Task, event: Event) -> None:
        """Take in one event of ``task``."""
        with self.lock:
            self._take_in(task, event)
            self._note_pace()

    def _note_pace(self) -> None:
        now = time.monotonic()
        if now - self._way[-1][0] >= RECENT / 60:
            self._way.append((now, self._done()))
        while len(self._way) > 2 and now - self._way[1][0] >= RECENT:
            self._way.popleft()

    def _take_in(self, task: Task, event: Event) -> None:
        what = event["event"]
        if what == "started":
            self._started(task, event)
        line = self.running.get(task.id)
        if line is not None:
            line.heard = time.time()
            line.waiting = str(event["text"]) if what == "waiting" else "" if what != "alive" else line.waiting
        if what in ("ended", "failed", "retried"):
            self.running.pop(task.id, None)
            if what == "ended":
                self._done_cost += task.cost
            if what == "failed":
                self._failed(task, event, line.share if line else 0.0)
        elif what == "trial":
            self._trial(task, event)
        if line is not None and what == "progress":
            line.epoch, line.step, line.steps = event["epoch"], event["step"], event["steps"]
            line.loss, line.images_per_s, line.members = event["loss"], event["images_per_s"], event["members"]
        elif line is not None and what == "trial":
            line.ended, line.members = line.ended + 1, max(line.members - 1, 0)
        elif line is not None and what == "epoch":
            line.top1 = event["test_top1"]
        elif line is not None and what == "memory":
            line.memory = int(event["peak"])

    def _started(self, task: Task, event: Event) -> None:
        log = str(event.get("log") or "")
        self.begun[task.id] = (task, log)
        self.running[task.id] = Running(
            task,
            slot=_whole(event.get("slot")),
            host=str(event.get("host") or ""),
            device=str(event.get("device") or ""),
            pid=_whole(event.get("pid")),
            attempt=event.get("attempt", task.attempt),
            log=log,
        )

    def _trial(self, task: Task, event: Event) -> None:
        if not event["teacher"]:
            self._ended.add(event["key"])
            self.counts[event["status"]] += 1
        if event["status"] not in ("finished", "inapplicable"):
            self.failures.append(Failure(event["title"], event["status"], event["detail"], self.log_of(task)))

    def _failed(self, task: Task, event: Event, share: float) -> None:
        """Its trials that have not ended are lost, but for those that need no teacher where that is what failed.

        ``share``: how much of it was done.
        """
        self._done_cost += task.cost * share
        self._total -= task.cost * (1 - share)
        apart = event.get("refused") or event.get("dependent")
        status = "left" if apart else "timed_out" if event.get("timed_out") else "crashed"
        lost = [t for t in self.students(task) if not event.get("dependent") or t.teacher is not None]
        self.counts[status] += len(lost)
        self._ended.update(trial.key for trial in lost)
        self.reasons.update((trial.key, event["text"]) for trial in lost)
        self.failures.append(Failure(task.title, status, event["text"], self.log_of(task)))
        if not apart:
            self.lost.append((task, event))

    def students(self, task: Task) -> list[Trial]:
        """The trials of ``task`` that have not ended."""
        return [trial for trial in task.trials if trial.key not in self._ended]

    def log_of(self, task: Task) -> str:
        """The path of the log of ``task``; empty where it was not begun, or nobody said."""
        return self.begun[task.id][1] if task.id in self.begun else ""

    @property
    def failed(self) -> int:
        """How many trials have diverged or were lost."""
        return sum(self.counts[status] for status in ("diverged", *LOST))

    @property
    def busy(self) -> int:
        """How many students train now; a teacher counts as one."""
        return sum(line.members if line.task.trials else 1 for line in self.running.values())

    @property
    def waiting(self) -> int:
        """How many trials have neither ended nor train now."""
        students = sum(line.members for line in self.running.values() if line.task.trials)
        return max(self.trials - sum(self.counts.values()) - students, 0)

    def time_left(self) -> float | None:
        """Seconds, from how much of the plan's cost workers got done lately; None before there is anything to go by."""
        then, before = self._way[0]
        done = self._done()
        if done <= before or done < 0.01 * self._total:
            return None
        return (time.monotonic() - then) * max(self._total - done, 0.0) / (done - before)

    def _done(self) -> float:
        """How much of the plan's cost is done."""
        return self._done_cost + sum(line.task.cost * line.share for line in self.running.values())


def _whole(value: object) -> int | None:
    """``value`` where it is a whole number: a backend may have no slot and no process, or call them otherwise."""
    return value if isinstance(value, int) else None


def clock(seconds: float) -> str:
    """A time of day in seconds as files have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
