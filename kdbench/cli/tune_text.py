"""What tuning chose, in words and as the rows of a suite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.cli.fields import values
from kdbench.cli.say import many
from kdbench.suites import Row, Suite
from kdbench.suites.rungs import Course
from kdbench.suites.tuning import Tuning


def lines(suite: Suite, found: Course, flags: str = "") -> Iterator[str]:
    """What was tried and chosen of ``suite``; ``flags``: of the command that goes on."""
    if suite.tuning is None:
        return
    yield _budget(suite, suite.tuning)
    if not found.chosen:
        last = found.rungs[-1]
        left = len(last.suite.rows) - len(last.scores)
        yield f"Rung {len(found.rungs)} lacks {many(left, 'trial')}; go on by: kdbench tune {suite.asked}{flags}"
        return
    for row in found.chosen:
        reached = [f"{rung.scores[_label(row, found)]:.2f}" for rung in found.rungs]
        yield f"  {row.label:<20} {values(row.config)}; held-out accuracy {', '.join(reached)} %"


def toml(suite: Suite, found: Course) -> str:
    """The chosen rows as a suite has them, and under [[tried]] every configuration in each rung that it came to."""
    tuning = suite.tuning
    if tuning is None:
        return ""
    parts = [f"# {_budget(suite, tuning)}"]
    for row in found.chosen:
        label = _label(row, found)
        parts.append(_table("methods", name=row.method, label=row.label, config=row.config) + f"# It was {label}.")
    for number, rung in enumerate(found.rungs, 1):
        for row in rung.suite.rows:
            score = rung.scores[row.label]
            reached = {"held_out": score} if math.isfinite(score) else {}
            parts.append(_table("tried", label=row.label, rung=number, config=row.config, **reached).rstrip())
    return "\n\n".join(parts) + "\n"


def _budget(suite: Suite, tuning: Tuning) -> str:
    return f"{suite.id}: {tuning}, chosen on {suite.protocol.holdout:,} held-out images."


def _label(row: Row, found: Course) -> str:
    """The label that a chosen ``row`` had in the rungs."""
    last = found.rungs[-1].suite.rows
    return next(each.label for each in last if each.method == row.method and each.config == row.config)


def _table(title: str, **fields: Any) -> str:
    return f"[[{title}]]\n" + "".join(f"{field} = {_plain(value)}\n" for field, value in fields.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_plain(each)}" for name, each in value.items()) + " }"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)
