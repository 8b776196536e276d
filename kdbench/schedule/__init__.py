"""Running tasks: the contract every backend keeps, and the backend for one machine. Imports no torch."""

from __future__ import annotations

from kdbench.schedule.base import Event, Executor, Report, Watch
from kdbench.schedule.local import LocalExecutor

__all__ = ["Event", "Executor", "LocalExecutor", "Report", "Watch"]
