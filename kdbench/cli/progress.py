"""Progress of a run where it was started: a table in a terminal, a line for each thing that ends anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from kdbench.cli.durations import duration
from kdbench.cli.following import Following
from kdbench.cli.say import complain, say
from kdbench.errors import plain
from kdbench.plan.events import told
from kdbench.plan.task import Task
from kdbench.schedule.base import Event

#: Seconds without a line after which what is piped says how far the run is.
QUIET = 60.0


class Progress(Following):
    """Base of both forms. By itself it says only why a task failed, on standard error and once."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(tasks)
        self._said: set[tuple[str, str]] = set()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def beat(self) -> None:
        """Called every few seconds, from another thread: say what is due though nothing happens."""

    def _take_in(self, task: Task, event: Event) -> None:
        super()._take_in(task, event)
        if event["event"] == "failed" and self._new("failed", event["text"]):  # a reason that several tasks have is one
            complain(event["text"])

    def _new(self, kind: str, text: str) -> bool:
        """Whether this is the first time that something of this ``kind`` says ``text``."""
        new = (kind, text) not in self._said
        self._said.add((kind, text))
        return new

    def _lines(self, task: Task, event: Event) -> list[str]:
        """What is said of an event where it is no failure, which is said elsewhere; notes and warnings once."""
        what = event["event"]
        if what == "retried":
            return [f"{task.title}: {event['text']}"]
        lines = told(event)
        if what == "trial" and event["status"] == "crashed" and self.log_of(task):
            return [f"{line}; its log is {self.log_of(task)}" for line in lines]
        if what in ("note", "waiting"):
            return [f"{task.title}: {line}" for line in lines if what == "waiting" or self._new(what, line)]
        if what == "teacher":
            return [lines[0], *(line for line in lines[1:] if self._new(what, line))]
        return lines if what in ("trial", "epoch") else []

    def summary(self) -> str:
        """``trials done, running, failed, time left`` in one line."""
        left = self.time_left()
        return (
            f"{self.counts['finished']} of {self.trials} trials done, {self.busy} running, {self.failed} failed"
            f"{'' if left is None else f', about {duration(left)} left'}"
        )


class PlainProgress(Progress):
    """One line for each trial that ends and one for each quiet minute, for logs and pipes; ``verbose``: each epoch."""

    def __init__(self, tasks: Sequence[Task], stream: IO[str], verbose: bool = False) -> None:
        super().__init__(tasks)
        self.stream, self.verbose = stream, verbose
        self._spoke = time.monotonic()

    def _take_in(self, task: Task, event: Event) -> None:
        super()._take_in(task, event)
        if not self.verbose and (event["event"] == "epoch" or _of_teacher(event)):
            return
        for line in self._lines(task, event):
            self._say(f"{line} [{self.summary()}]" if event["event"] == "trial" else line)

    def beat(self) -> None:
        with self.lock:
            if time.monotonic() - self._spoke >= QUIET:
                self._say(self.summary())

    def _say(self, line: str) -> None:
        say(line, self.stream)
        self._spoke = time.monotonic()


def _of_teacher(event: Event) -> bool:
    """Whether ``event`` is the record of a teacher's training, after which the teacher is told of by itself."""
    return event["event"] == "trial" and bool(event["teacher"]) and event["status"] == "finished"


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

    def _take_in(self, task: Task, event: Event) -> None:
        super()._take_in(task, event)
        if event["event"] != "epoch":
            for line in self._lines(task, event):
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


def make_progress(tasks: Sequence[Task], stream: IO[str], verbose: bool = False) -> Progress:
    """Live where ``stream`` is a terminal that can move its cursor, plain lines elsewhere."""
    live = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return LiveProgress(tasks) if live else PlainProgress(tasks, stream, verbose)
