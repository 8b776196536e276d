"""Rows that a suite's name does not cover: records of one row that were made under different protocols."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.stats.aggregate import NO_TEACHER
from kdbench.suites import Row, installed_suite

Record = Mapping[str, Any]


def agreeing(rows: Iterable[Record]) -> tuple[list[Record], list[tuple[Record, str]]]:
    """The ``rows`` without those whose protocol is not their suite's, and these with a sentence.

    Where the records of one row differ in it, the suite decides, if this copy of kdbench has it. Of another suite,
    measured records must agree, and contributed ones with those. A student alone may have a protocol for each pair.
    """
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for row in rows:
        groups[row["suite"], row["dataset"], row["pair"], row["label"]].append(row)
    kept: list[Record] = []
    strangers: list[tuple[Record, str]] = []
    for (suite, dataset, pair, label), members in groups.items():
        alike = all(_protocol(row) == _protocol(members[0]) for row in members)
        wanted = None if alike else _wanted(suite, dataset, pair, label)
        if alike or (wanted is None and pair.startswith(f"{NO_TEACHER}:")):
            kept += members
            continue
        text = f"its protocol is not the one that {suite} has for this row"
        if wanted is None:
            said = [_protocol(row) for row in members if row["evidence"] == "measured"]
            said = said or [_protocol(row) for row in members]
            wanted = said[:1] if all(one == said[0] for one in said) else []
            text = f"records of this row differ in their protocol, and no copy of {suite} is at hand that decides"
        for row in members:
            if _protocol(row) in wanted:
                kept.append(row)
            else:
                strangers.append((row, text))
    return kept, strangers


def _protocol(row: Record) -> Any:
    return row["identity"]["protocol"]


def _wanted(suite: str, dataset: str, pair: str, label: str) -> list[Any] | None:
    """The protocols that ``suite`` has for a row on a pair; None where this copy of kdbench does not know."""
    plan = installed_suite(suite)
    if plan is None:
        return None
    row = next((row for row in plan.rows if row.label == label), Row(label, label, {}))
    teacher, _, student = pair.partition(":")
    pairs = [
        other
        for other in plan.pairs
        if other.dataset == dataset
        and (other.name == pair or (teacher == NO_TEACHER and other.name.partition(":")[2] == student))
    ]
    return [row.protocol_for(other).identity() for other in pairs] or None
