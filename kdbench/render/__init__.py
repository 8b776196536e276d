"""The static leaderboard. Imports no torch."""

from __future__ import annotations

from kdbench.render.site import BuildReport, build, check_replaceable, first_page

__all__ = ["BuildReport", "build", "check_replaceable", "first_page"]
