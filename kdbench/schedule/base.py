"""What a backend is to the rest of kdbench: it is given tasks and tells what becomes of them."""

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
