"""Rows that a suite's name does not cover: records of one row that were made under different protocols."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.canonical import canonical
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
        if all(row["identity"]["protocol"] == members[0]["identity"]["protocol"] for row in members):
            kept += members
            continue
        planned = _planned(suite, dataset, pair, label)
        if planned is None and pair.startswith(f"{NO_TEACHER}:"):
            kept += members
            continue
        said = {_protocol(row) for row in members}
        measured = {_protocol(row) for row in members if row["evidence"] == "measured"}
        wanted = planned or (measured or said)
        for row in members:
            if _protocol(row) in wanted and (planned or len(wanted) == 1):
                kept.append(row)
            else:
                strangers.append((row, _sentence(suite, bool(planned))))
    return kept, strangers


def _protocol(row: Record) -> bytes:
    return canonical(row["identity"]["protocol"])


def _planned(suite: str, dataset: str, pair: str, label: str) -> set[bytes] | None:
    """The protocols that ``suite`` has for a row on a pair; None where this copy of kdbench has not the two."""
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
    return {canonical(row.protocol_for(other).identity()) for other in pairs} or None


def _sentence(suite: str, decided: bool) -> str:
    if decided:
        return f"its protocol is not the one that {suite} has for this row"
    return f"records of this row were made under different protocols, and no copy of {suite} is at hand that decides"
