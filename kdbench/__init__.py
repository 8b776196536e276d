"""kdbench: a benchmark suite and leaderboard generator for knowledge distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.frames import load_reported, load_results
    from kdbench.students.student import load_student

__version__ = "0.1.0"
__all__ = ["__version__", "load_reported", "load_results", "load_student"]


def __getattr__(name: str) -> Any:
    """The tables come with pandas, and students with torch: they are imported when one of them is asked for."""
    if name in ("load_reported", "load_results"):
        from kdbench import frames

        return getattr(frames, name)
    if name == "load_student":
        from kdbench.students import student

        return student.load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
