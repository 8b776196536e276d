"""Numbers and names as a page says them."""

from __future__ import annotations

import math
import re
from functools import lru_cache

import markupsafe
from markupsafe import Markup

from kdbench.stats.aggregate import NO_TEACHER, Spread
from kdbench.stats.intervals import Interval

#: What no page may hold: control characters, lone surrogates, and what Unicode says is no character.
_UNSHOWN = re.compile(
    "[\0-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(chr(plane << 16 | last) for plane in range(1, 17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


def visible(text: str) -> str:
    """``text`` with a mark in the place of each character that no page may hold."""
    return text if text.isascii() and text.isprintable() else _UNSHOWN.sub("\ufffd", text)


def escape(value: object) -> Markup:
    """``value`` as a part of a page, whoever wrote it."""
    return markupsafe.escape(value if hasattr(value, "__html__") else visible(str(value)))


def bdi(text: object) -> Markup:
    """What others wrote: escaped, in a direction of its own, and kept in its box by static/style.css."""
    return _remembered(text) if type(text) is str else _isolated(text)


def _isolated(text: object) -> Markup:
    return Markup(f"<bdi>{escape(text)}</bdi>")


#: Of names and numbers, which come up again and again. What is no plain text may not be hashable, or be markup.
_remembered = lru_cache(maxsize=8192)(_isolated)


def pair_names(teacher: str, student: str) -> Markup:
    """A pair's title with each name isolated by itself, as the arrow must point at the student."""
    if teacher == NO_TEACHER:
        return bdi(student) + " without a teacher"
    return bdi(teacher) + " \u2192 " + bdi(student)


def pair_title(teacher: str, student: str) -> str:
    return f"{student} without a teacher" if teacher == NO_TEACHER else f"{teacher} \u2192 {student}"


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: a dash where there is none, a true minus sign."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")  # a zero has no sign


def signed(value: float | None, digits: int = 2) -> str:
    text = number(value, digits)
    return f"+{text}" if value is not None and 0 < value < math.inf and float(text) else text


def rate(value: float | None) -> str:
    """Images a second: whole ones where there are many, else at least two digits."""
    return number(value, 0 if value is None or value >= 100 else 1 if value >= 10 else 2)


def sort_value(value: Interval | Spread | float | None) -> str:
    """What the page's script sorts by; empty sorts last."""
    mean = value.mean if isinstance(value, Interval) else value.middle if isinstance(value, Spread) else value
    return "" if mean is None or not math.isfinite(mean) else f"{mean:.6g}"


#: Which epoch a number is from.
SELECTION_NAMES = {
    "last": "last epoch",
    "best_val": "best on validation",
    "best_test": "best on test (oracle)",
    "unstated": "not stated",
}


def value(interval: Interval | None, digits: int = 2, plus: bool = False, bold: bool = True) -> Markup:
    """A mean and half its interval; a function and no macro, as large pages have thousands of them."""
    if interval is None:
        return Markup("\u2013")
    mean = (signed if plus else number)(interval.mean, digits)
    half = interval.half
    around = "" if half is None else f' <span class="half">\u00b1 {number(half, digits)}</span>'
    return Markup(f"<b>{mean}</b>{around}" if bold else mean + around)


def words(command: str) -> Markup:
    """A command that is broken between its words alone, as a browser would break an option behind its hyphens."""
    return Markup("<bdi>{}</bdi>").format(
        Markup(" ").join(Markup('<span class="word">{}</span>').format(w) for w in command.split(" "))
    )


FILTERS = {
    "bdi": bdi,
    "words": words,
    "number": number,
    "signed": signed,
    "rate": rate,
    "sort_value": sort_value,
    "selection_name": SELECTION_NAMES.__getitem__,
}
