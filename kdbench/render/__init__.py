"""The static leaderboard. Imports no torch."""

from __future__ import annotations

from kdbench.render.check import check
from kdbench.render.output import check_replaceable, first_page
from kdbench.render.site import BuildReport, build

__all__ = ["BuildReport", "build", "check", "check_replaceable", "first_page"]
