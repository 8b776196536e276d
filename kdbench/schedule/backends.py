"""The backends by name, and what a command line says of them. A backend's libraries are imported when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from kdbench.plan.fleet import Fleet
from kdbench.plan.task import Task
from kdbench.schedule.base import Event, Executor

#: Does a task in the process that calls it, and tells each event.
Work = Callable[[Task, Callable[[Event], None]], None]

#: Name -> the module and the class of the backend.
BACKENDS = {
    "local": ("kdbench.schedule.local", "LocalBackend"),
    "inline": ("kdbench.schedule.inline", "InlineBackend"),
}


def _nothing(*_: Any) -> None:
    raise ValueError("nothing was chosen to do the work")


@dataclass(frozen=True)
class Choice:
    """What a command line asks for: the backend, what it runs on, and its limits.

    ``device``: auto, cpu or cuda. ``slots``: workers at a time, None for as many as fit. ``timeout``: seconds without
    a record after which a worker is ended, None for no limit. ``address``: of a Ray cluster. ``slurm``: options of
    sbatch. ``work``: what does a task in this process.
    """

    name: str = "local"
    device: str = "auto"
    slots: int | None = None
    timeout: float | None = None
    address: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)
    work: Work = _nothing


class Backend(Protocol):
    """Where tasks are run. Made from a Choice; UserError, at once, where it cannot be reached."""

    def fleet(self, threads: int) -> Fleet:
        """The devices there are for tasks of so many ``threads``."""

    def executor(self, fleet: Fleet, folder: Path) -> Executor:
        """What runs tasks on ``fleet``; their files and logs lie in ``folder``."""


def find_backend(choice: Choice) -> Backend:
    """The backend of ``choice``."""
    module, name = BACKENDS[choice.name]
    backend: Backend = getattr(import_module(module), name)(choice)
    return backend
