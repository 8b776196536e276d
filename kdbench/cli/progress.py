"""Live progress of a run: a table in a terminal, a line for each thing that ends anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from kdbench.cli.durations import duration
from kdbench.cli.say import complain, say
from kdbench.errors import plain
from kdbench.plan.task import Task
from kdbench.schedule.base import Event


@dataclass
class _Line:
    """What is known of a running task."""

    task: Task
    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    top1: float | None = None
    images_per_s: float | None = None
    members: int = 1
    ended: int = 0

    @property
    def share(self) -> float:
        """How much of the task is done, 0 to 1: trials that ended, and the current cohort's part of the way."""
        way = self.members * self.step / self.steps if self.steps else 0.0
        return min((self.ended + way) / max(len(self.task.trials), 1), 1.0)


class Progress:
    """Follows events; base of both forms. By itself it says only why a task failed, on standard error and once."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)
        self.trials = sum(len(task.trials) for task in tasks)
        self.counts: dict[str, int] = {"finished": 0, "diverged": 0, "crashed": 0}
        self.running: dict[str, _Line] = {}
        #: Tasks whose worker died, and the event that says so. Not those that were refused, or whose teacher failed.
        self.lost: list[tuple[Task, Event]] = []
        self._failures: set[str] = set()
        self._done_cost = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def watch(self, task: Task, event: Event) -> None:
        """Take in one event of ``task``."""
        what = event["event"]
        if what == "started":
            self.running[task.id] = _Line(task)
        elif what in ("ended", "failed", "retried"):
            self.running.pop(task.id, None)
            if what == "ended":
                self._done_cost += task.cost
            if what == "failed":
                self._failed(task, event)
        elif what == "trial" and not event["teacher"]:
            self.counts[event["status"]] = self.counts.get(event["status"], 0) + 1
        line = self.running.get(task.id)
        if line is not None and what == "progress":
            line.epoch, line.step, line.steps = event["epoch"], event["step"], event["steps"]
            line.loss, line.images_per_s, line.members = event["loss"], event["images_per_s"], event["members"]
        elif line is not None and what == "trial":
            line.ended, line.members = line.ended + 1, max(line.members - 1, 0)
        elif line is not None and what == "epoch":
            line.top1 = event["test_top1"]

    def _failed(self, task: Task, event: Event) -> None:
        if event["text"] not in self._failures:  # a reason that several tasks have is one
            self._failures.add(event["text"])
            complain(event["text"])
        if not event.get("refused") and not event.get("dependent"):
            self.lost.append((task, event))

    def summary(self) -> str:
        """``trials done, running, failed, time left`` in one line."""
        failed = self.counts["diverged"] + self.counts["crashed"]
        running = sum(line.members if line.task.trials else 1 for line in self.running.values())
        left = self.time_left()
        return (
            f"{self.counts['finished']} of {self.trials} trials done, {running} running, {failed} failed"
            f"{'' if left is None else f', about {duration(left)} left'}"
        )

    def time_left(self) -> float | None:
        """Seconds, from the share of the plan's cost that is done; None before there is anything to go by."""
        total = sum(task.cost for task in self.tasks)
        done = self._done_cost + sum(line.task.cost * line.share for line in self.running.values())
        if not total or done / total < 0.01:
            return None
        return (time.monotonic() - self._began) * max(total - done, 0.0) / done


class PlainProgress(Progress):
    """One line for each thing that ends, for logs and pipes."""

    def __init__(self, tasks: Sequence[Task], stream: IO[str]) -> None:
        super().__init__(tasks)
        self.stream = stream

    def watch(self, task: Task, event: Event) -> None:
        super().watch(task, event)
        for line in _lines(task, event):
            say(f"{line} [{self.summary()}]" if event["event"] == "trial" else line, self.stream)


def _lines(task: Task, event: Event) -> list[str]:
    """What is said of an event where it is no failure, which is said elsewhere."""
    what = event["event"]
    if what == "trial":
        top1 = "" if event["top1"] is None else f" top-1 {event['top1']:.2f}"
        detail = f": {event['detail']}" if event["detail"] else ""
        return [f"{event['title']}: {event['status']}{top1}{detail}"]
    if what == "epoch":
        losses = ", ".join(f"{name} {value:.4g}" for name, value in event["losses"].items())
        return [f"{event['title']}: epoch {event['epoch']}: {losses}, top-1 {event['test_top1']:.2f}"]
    if what == "teacher":
        return [f"teacher {event['name']}: top-1 {event['top1']:.2f}", *(f"WARNING: {w}" for w in event["warnings"])]
    if what in ("note", "retried", "waiting"):
        return [f"{task.title}: {event['text']}"]
    return []


class LiveProgress(Progress):
    """A table that redraws itself, with what ended above it."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(tasks)
        from rich.live import Live

        # What is said on standard error stands above the table where both are a terminal, and stays in a file.
        self._live = Live(
            get_renderable=self._table, refresh_per_second=4, transient=True, redirect_stderr=sys.stderr.isatty()
        )

    def __enter__(self) -> Progress:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def watch(self, task: Task, event: Event) -> None:
        super().watch(task, event)
        if event["event"] != "epoch":
            for line in _lines(task, event):
                self._live.console.print(plain(line), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(title=self.summary(), title_justify="left", box=None, pad_edge=False)
        for name in ("cohort", "epoch", "step", "loss", "top-1", "images/s"):
            table.add_column(name, justify="left" if name == "cohort" else "right")
        for line in list(self.running.values()):
            table.add_row(
                line.task.title,
                str(line.epoch or ""),
                f"{line.step}/{line.steps}" if line.steps else "starting",
                "" if line.loss is None else f"{line.loss:.4g}",
                "" if line.top1 is None else f"{line.top1:.2f}",
                "" if line.images_per_s is None else f"{line.images_per_s:.0f}",
            )
        return table


def make_progress(tasks: Sequence[Task], stream: IO[str]) -> Progress:
    """Live where ``stream`` is a terminal that can move its cursor, plain lines elsewhere."""
    live = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return LiveProgress(tasks) if live else PlainProgress(tasks, stream)
