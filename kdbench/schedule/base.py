"""What a backend is to the rest of kdbench: it starts workers and tells what they say and how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdbench.plan.task import Task

Event = dict[str, Any]
Watch = Callable[[Task, Event], None]


@dataclass
class Report:
    """How the tasks ended. ``failed`` maps a task to the sentence that says why."""

    finished: list[Task] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class Executor(Protocol):
    """Runs every task once, those in ``task.after`` first, never more at a time than it has slots.

    A backend passes tests/executor_conformance.py. ``watch`` is told each event of each worker, and the executor's
    own: started, retried, failed, ended.
    """

    def run(self, tasks: Sequence[Task], watch: Watch) -> Report: ...


@dataclass(frozen=True)
class Grant:
    """A ``task`` that is to start now, as it is, on the device of that number in the fleet, in these of its slots."""

    id: int
    task: Task
    device: int
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    ``code``: its exit status, or the negative of a signal; ``why``: that in words, as they follow "its worker";
    ``log``: where the rest of what it printed is. ``done``: it said that all is recorded. ``refused``: its reason for
    not even trying. ``late``: it was ended as it was silent, or took too long. ``saved``: it was told to stop, and said
    that its students are saved. ``lost``: its node went, and nobody knows more.
    """

    code: int
    why: str
    log: str = ""
    done: bool = False
    refused: str = ""
    late: bool = False
    saved: bool = False
    lost: bool = False


class Launcher(Protocol):
    """Starts workers somewhere. Which, where and when is decided elsewhere (queue), and so is what an end means."""

    def start(self, grants: Sequence[Grant]) -> list[tuple[Grant, Exception]]:
        """Start a worker for each of ``grants``, in one go where that is cheaper; those that could not be started.

        It says ``started`` as the first event of each once it runs.
        """

    def hear(self, seconds: float) -> list[tuple[Grant, Event | Ending]]:
        """What workers have said, in their order, and at last how they ended; waits for that at most so long."""

    def stop(self, grant: Grant) -> None:
        """Have the worker end: it may save first, and is killed when it takes too long. Returns at once."""

    def close(self) -> None:
        """End all workers that still run, as ``stop`` does, and wait until none is left."""
