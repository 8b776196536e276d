"""Values as people read them."""

from __future__ import annotations

import math

from kdbench.stats.aggregate import Spread
from kdbench.stats.intervals import Interval

#: Which epoch a number is from.
SELECTION_NAMES = {
    "last": "last epoch",
    "best_val": "best on validation",
    "best_test": "best on test (oracle)",
    "unstated": "not stated",
}


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: a dash where there is none, a true minus sign."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    return f"{value + 0.0:.{digits}f}".replace("-", "\u2212")  # a zero has no sign


def signed(value: float | None, digits: int = 2) -> str:
    text = number(value, digits)
    return text if value is None or not math.isfinite(value) or value < 0 else f"+{text}"


def rate(value: float | None) -> str:
    """Images a second: whole ones where there are many, else at least two digits."""
    return number(value, 0 if value is None or value >= 100 else 1 if value >= 10 else 2)


def sort_value(value: Interval | Spread | float | None) -> str:
    """What the page's script sorts by; empty sorts last."""
    mean = value.mean if isinstance(value, Interval) else value.middle if isinstance(value, Spread) else value
    return "" if mean is None or not math.isfinite(mean) else f"{mean:.6g}"
