"""A page for each teacher that taught here: what was measured of it, what trained it, and who learnt from it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kdbench.records.agreement import TEACHER
from kdbench.render.address import place_anchor, row_page, slug
from kdbench.render.catalogue import Catalogue, PairName
from kdbench.render.measured import Table, flatten
from kdbench.render.rows import Attempt
from kdbench.stats.aggregate import Record

#: Fields of a teacher's identity that stand on its page in words of their own.
_SAID = ("kind", "parts", "recipe", "version")


@dataclass(frozen=True)
class Training:
    """The records of one recipe, of which there are several where several machines followed it."""

    name: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Teacher:
    """One network, or several that teach as one. ``facts`` are the same in the record of each student of its.

    ``identity`` is what the trials' keys know of it; ``file`` and ``row`` are those of one of these records, with the
    place on the row's page; ``students`` are the tables whose rows it taught, with how many records of these there are.
    """

    dataset: str
    facts: Mapping[str, Any]
    identity: Mapping[str, Any]
    file: str
    trainings: tuple[Training, ...]
    contributed: bool
    row: tuple[str, str] = ("", "")
    students: dict[tuple[str, str, str], tuple[Table, int]] = field(default_factory=dict)

    @cached_property
    def page(self) -> str:
        return teacher_page(self.dataset, self.facts, self.identity)

    @property
    def settings(self) -> Mapping[str, str]:
        return flatten({name: value for name, value in self.identity.items() if name not in _SAID})

    @property
    def tables(self) -> list[tuple[Table, int]]:
        return [self.students[place] for place in sorted(self.students)]

    @property
    def suites(self) -> list[str]:
        return sorted({table.suite for table, _ in self.students.values()})


def teacher_page(dataset: str, facts: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """Where the page of a teacher lies: several may have one name, and one recipe may have made several."""
    made = json.dumps(identity, sort_keys=True) + facts["weights_sha256"]
    return f"teachers/{slug(dataset)}/{slug(facts['name'] + '-' + hashlib.sha256(made.encode()).hexdigest()[:20])}.html"


@dataclass(frozen=True)
class Teachers:
    """All of them, and which ones taught in a record or on a pair."""

    every: tuple[Teacher, ...]
    by_pair: Mapping[PairName, Sequence[Teacher]]
    by_suite: Mapping[str, Sequence[Teacher]]
    _places: _Places

    def of(self, record: Record) -> Teacher | None:
        """The teacher of the student of ``record``; None where nothing was measured of one."""
        return None if record["teacher"] is None else self._places.found[self._places.of(record)]

    def among(self, records: Iterable[Record]) -> list[tuple[Teacher, list[int]]]:
        """The teachers of ``records``, each once, with the seeds of the students that each taught."""
        found: dict[str, tuple[Teacher, set[int]]] = {}
        for record in records:
            if teacher := self.of(record):
                found.setdefault(teacher.page, (teacher, set()))[1].add(record["seed"])
        return [(teacher, sorted(seeds)) for teacher, seeds in found.values()]


def teachers(catalogue: Catalogue) -> Teachers:
    """Every teacher of the records that ``catalogue`` shows."""
    behind = {evidence: _behind_them(catalogue, evidence) for evidence in ("measured", "contributed")}
    places = _Places()
    found = places.found
    every_table = sorted(catalogue.tables.items())
    ours = [(at, table, line) for at, table in every_table for line in table.lines]
    theirs = [(at, table, line) for at, table in every_table for line in table.contributed]
    for at, table, line in (*ours, *theirs):
        for record in line.cell.records:
            if record["teacher"] is None:
                continue
            place = places.of(record)
            if place not in found:
                row = row_page(table.suite, line.cell.label, line.cell.evidence)
                found[place] = replace(
                    _teacher(record, behind[record["evidence"]]), row=(row, place_anchor(table.dataset, table.pair))
                )
            known = found[place]
            if known.contributed != (record["evidence"] != "measured"):  # what was measured here is not what others say
                continue
            if "degrees" in record["teacher"].keys() - known.facts.keys():  # older ones have none
                known = found[place] = replace(known, facts=record["teacher"], file=record.get("file", ""))
            _, count = known.students.get(at, (table, 0))
            known.students[at] = table, count + 1
    every = sorted(found.values(), key=lambda teacher: (teacher.dataset, teacher.facts["name"], teacher.page))
    by_pair: dict[PairName, list[Teacher]] = defaultdict(list)
    by_suite: dict[str, list[Teacher]] = defaultdict(list)
    for teacher in every:
        for names in dict.fromkeys(table.names for table, _ in teacher.tables):
            by_pair[names].append(teacher)
        for suite in teacher.suites:
            by_suite[suite].append(teacher)
    return Teachers(tuple(every), by_pair, by_suite, places)


class _Places:
    """What tells teachers apart: data set, name, and all that its identity and its weights' digest say."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], Teacher] = {}
        # The records that were read share these parts (records.inventory), so that few are ever written down.
        self._known: dict[tuple[int, int], tuple[Any, Any, tuple[str, str, str]]] = {}

    def of(self, record: Record) -> tuple[str, str, str]:
        facts, identity = record["teacher"], record["identity"]["teacher"]
        known = self._known.get((id(facts), id(identity)))
        if known is None or known[2][0] != record["dataset"]:
            place = record["dataset"], facts["name"], json.dumps(identity, sort_keys=True) + facts["weights_sha256"]
            known = self._known[id(facts), id(identity)] = facts, identity, place  # kept, so that no other has their id
        return known[2]


def _behind_them(catalogue: Catalogue, evidence: str) -> Mapping[str, Sequence[Record]]:
    """The trainings of teachers by their keys, and those of students by the digest of their weights.

    Of students those whose weights teach others (teachers of kind ``student``); all of one ``evidence``.
    """
    found: dict[str, list[Record]] = defaultdict(list)
    for record in catalogue.trainings:
        if record["evidence"] == evidence:
            found[record["key"]].append(record)
    students = [record for record in catalogue.records if record["evidence"] == evidence]
    identities = (record["identity"]["teacher"] for record in students if record["teacher"] is not None)
    wanted = {str(identity.get("weights_sha256")) for identity in identities}
    for record in students:
        weights = record["weights_sha256"]
        if weights in wanted and all(other["key"] != record["key"] for other in found[weights]):
            found[weights].append(record)
    return found


def _teacher(record: Record, behind: Mapping[str, Sequence[Record]]) -> Teacher:
    identity, accuracy = record["identity"]["teacher"], record["teacher"]["top1"]
    trainings = []
    for records in _recorded(identity, behind):
        in_order = sorted(records, key=lambda made: (_top1(made) != accuracy, made["provenance"]["created"]))
        once = {made["weights_sha256"] or made["provenance"]["created"]: made for made in reversed(in_order)}
        trainings.append(Training(_name(in_order[0]), tuple(map(Attempt, reversed(once.values())))))
    contributed = record["evidence"] != "measured"
    facts, file = record["teacher"], record.get("file", "")
    return Teacher(record["dataset"], facts, identity, file, tuple(trainings), contributed)


def _name(record: Record) -> str:
    """The teacher that ``record`` is the training of; of a student's, which row it is of."""
    student = record["pair"].partition(":")[2]
    return student if record["label"] == TEACHER else f"{record['label']} on {record['pair']} in {record['suite']}"


def _recorded(identity: Mapping[str, Any], behind: Mapping[str, Sequence[Record]]) -> Iterator[Sequence[Record]]:
    """The records of each training of a teacher, those of its parts and of its own teachers included."""
    waiting: list[Any] = [identity]
    seen: set[str] = set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, Mapping):  # others may have written it
            continue
        parts = each.get("parts")
        waiting += reversed(parts) if isinstance(parts, list) else ()
        for name in (each.get("recipe"), each.get("weights_sha256")):
            if isinstance(name, str) and name in behind and name not in seen:
                seen.add(name)
                yield behind[name]
                waiting += [record["identity"].get("teacher") for record in behind[name]]


def _top1(record: Record) -> float | None:
    score = record["scores"]["last"]
    return None if score is None else score["top1"]
