"""Seconds as people say them."""

from __future__ import annotations

import re

from kdbench.errors import UserError, shown

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WRITTEN = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,6}}){unit})?" for unit in _UNITS))


def seconds(text: str, flag: str) -> float:
    """The seconds that ``text`` means, which is written like 45m, 2h or 1h30m; UserError names ``flag``."""
    found = _WRITTEN.fullmatch(text)
    total = sum(int(found[unit] or 0) * size for unit, size in _UNITS.items()) if found else 0
    if not total:
        raise UserError(f"{flag} takes a time such as 45m, 2h or 1h30m, not {shown(text)}.")
    return float(total)


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
