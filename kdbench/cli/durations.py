"""Seconds as people say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    days = seconds / 86400
    if days < 1.5:
        return f"{seconds / 3600:.1f} h"
    return f"{days:.1f} days" if days < 10 else f"{days:.0f} days"
