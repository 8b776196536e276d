"""Text that others wrote, as pages hold it: escaped, and isolated, so that right-to-left letters turn nothing else."""

from __future__ import annotations

from markupsafe import Markup

from kdbench.stats.aggregate import NO_TEACHER


def bdi(text: object) -> Markup:
    """``text`` in an element whose direction is its own, and which static/style.css keeps in its box."""
    return Markup("<bdi>{}</bdi>").format(text)


def pair_names(teacher: str, student: str) -> Markup:
    """A pair as pages call it. Each name is isolated by itself: the arrow must point at the student."""
    if teacher == NO_TEACHER:
        return bdi(student) + " without a teacher"
    return bdi(teacher) + " \u2192 " + bdi(student)
