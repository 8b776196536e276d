"""Running tasks: the contract every backend keeps, the decisions, and the backends. Imports no torch."""

from __future__ import annotations

from kdbench.schedule.backends import BACKENDS, Backend, Choice, find_backend
from kdbench.schedule.base import Event, Executor, Report, Watch
from kdbench.schedule.coordinator import Coordinator
from kdbench.schedule.local import LocalLauncher

__all__ = [
    "BACKENDS",
    "Backend",
    "Choice",
    "Coordinator",
    "Event",
    "Executor",
    "LocalLauncher",
    "Report",
    "Watch",
    "find_backend",
]
