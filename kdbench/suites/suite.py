"""The suite: a named, versioned TOML file of data set, protocol, pairs, teachers, methods and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.data import DATASETS
from kdbench.data.checks import check_spec
from kdbench.errors import UnknownName, UserError, listed, shown
from kdbench.methods import METHODS
from kdbench.models import get_spec
from kdbench.names import check_name
from kdbench.protocol import Protocol, parse_protocol
from kdbench.suites.table import Table
from kdbench.suites.teacher import TEACHERS, check_seeds, parse_teacher, registered_teacher, resolved
from kdbench.toml import parse_toml
from kdbench.trials.teacher import Teacher


@dataclass(frozen=True)
class Pair:
    """A teacher and a student architecture, and what the protocol changes for this pair (a smaller rate, say)."""

    name: str
    teacher: str
    student: str
    protocol: Protocol


@dataclass(frozen=True)
class Row:
    """One line of the suite's table: a method, its overrides, the random stream it draws from.

    ``protocol`` is what the row changes of it: the longer training that a method was published with, say.
    """

    label: str
    method: str
    config: Mapping[str, Any]
    stream: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def protocol_for(self, pair: Pair) -> Protocol:
        """The pair's protocol with what this row changes."""
        return parse_protocol(self.protocol, f"row {self.label} on {pair.name}", pair.protocol)


@dataclass(frozen=True)
class Suite:
    """A suite as its file says it, every field checked. ``id`` is what records carry: ``name@version``."""

    name: str
    version: int
    title: str
    summary: str
    dataset: str
    short: bool
    protocol: Protocol
    seeds: tuple[int, ...]
    pairs: tuple[Pair, ...]
    teachers: Mapping[str, Teacher]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


def parse_suite(text: str, where: str) -> Suite:
    """Read a suite from TOML; UserError names ``where`` (the file), the line or the field."""
    try:
        return _suite(Table(parse_toml(text, where), where), where)
    except UnknownName as error:
        raise UserError(f"{where}: {error}") from None


def _suite(table: Table, where: str) -> Suite:
    name = check_name("suite", table.take("name", str), where)
    dataset = table.take("dataset", str)
    spec = check_spec(DATASETS.get(dataset))
    protocol = parse_protocol(table.take("protocol", dict), f"{where} [protocol]")
    teachers = {
        key: parse_teacher(check_name("teacher", key, where), value, spec, protocol, f"{where} [teachers.{key}]")
        for key, value in table.take("teachers", dict, {}).items()
    }
    pairs = table.take("pairs", list)
    wanted = {str(pair.get("teacher")) for pair in pairs if isinstance(pair, dict)}
    for key in sorted(wanted - teachers.keys()):
        if key in TEACHERS:
            teachers[key] = registered_teacher(key, spec, protocol)
    suite = Suite(
        name=name,
        version=table.count("version", 1),
        title=table.take("title", str),
        summary=table.take("summary", str),
        dataset=dataset,
        short=table.take("short", bool, False),
        protocol=protocol,
        seeds=_seeds(table.take("seeds", list), where),
        pairs=tuple(
            _pair(entry, teachers, protocol, f"{where} [[pairs]] {number}") for number, entry in enumerate(pairs, 1)
        ),
        teachers=teachers,
        rows=tuple(
            _row(entry, protocol, f"{where} [[methods]] {number}")
            for number, entry in enumerate(table.take("methods", list), 1)
        ),
        notes=tuple(table.take("notes", list, [])),
    )
    table.finish()
    _check(suite, where)
    return suite


def _check(suite: Suite, where: str) -> None:
    """What no single table shows: fields that must agree with one another or with the data set."""
    if not (suite.pairs and suite.rows):
        raise UserError(f"{where}: a suite needs [[pairs]] and [[methods]], one of each at least.")
    images = DATASETS.get(suite.dataset).train_size
    protocols = {
        suite.protocol,
        *(row.protocol_for(pair) for pair in suite.pairs for row in suite.rows),
        *(teacher.protocol for teacher in suite.teachers.values() if teacher.protocol),
    }
    if max(protocol.holdout for protocol in protocols) >= images:
        raise UserError(f"{where} [protocol]: holdout must be less than the {images} training images.")
    for pair in suite.pairs:
        check_seeds(suite.teachers[pair.teacher], suite.seeds, where)
    if any(type(note) is not str for note in suite.notes):
        raise UserError(f"{where}: notes must be a list of sentences.")
    for noun, names in (("pair", [p.name for p in suite.pairs]), ("label", [r.label for r in suite.rows])):
        doubled = sorted(name for name, count in Counter(names).items() if count > 1)
        if doubled:
            raise UserError(f"{where}: the {noun} {doubled[0]!r} occurs twice.")
    seen: dict[Hashable, Row] = {}
    for row in suite.rows:
        other = seen.setdefault(_resolved(row, suite.pairs), row)
        if other is not row:
            raise UserError(
                f"{where}: the rows {other.label!r} and {row.label!r} are the same trials; change config or stream."
            )


def _resolved(row: Row, pairs: Sequence[Pair]) -> Hashable:
    """All that tells the trials of a row from those of another."""
    method = METHODS.get(row.method)
    configs = (method.config(pair.name, row.config, row.label) for pair in pairs)
    protocols = tuple(row.protocol_for(pair) for pair in pairs)
    return row.method, row.stream, protocols, tuple(frozenset(config.items()) for config in configs)


def _seeds(raw: list[Any], where: str) -> tuple[int, ...]:
    if not raw or any(type(s) is not int or s < 0 for s in raw) or len(set(raw)) != len(raw):
        raise UserError(f"{where}: seeds must be a list of different whole numbers from 0, not {shown(raw)}.")
    return tuple(raw)


def _pair(raw: Any, teachers: Mapping[str, Teacher], base: Protocol, where: str) -> Pair:
    table = Table(raw, where)
    teacher_name, student = table.take("teacher", str), get_spec(table.take("student", str))
    if teacher_name not in teachers:
        raise UserError(
            f"{where}: teacher {shown(teacher_name)} is not under [teachers]; "
            f"there are {listed(sorted({*teachers, *TEACHERS})) or 'none'}."
        )
    teacher = teachers[teacher_name]
    if teacher.kind == "self" and teacher.model != student.name:
        raise UserError(
            f"{where}: teacher {teacher_name!r} is an earlier generation of {teacher.model} and cannot teach "
            f"{student.name}; make {teacher.model} the student, or the teacher's kind 'trained'."
        )
    protocol = parse_protocol(table.take("protocol", dict, {}), f"{where} protocol", base)
    name = table.take("name", str, f"{get_spec(teacher.model).literature}:{student.literature}")
    table.finish()
    if name.count(":") != 1:
        raise UserError(f"{where}: a pair's name reads teacher:student, not {shown(name)}.")
    for half in name.split(":"):
        check_name("pair", half, where)
    return Pair(name, teacher_name, student.name, protocol)


def _row(raw: Any, base: Protocol, where: str) -> Row:
    table = Table(raw, where)
    name = table.take("name", str)
    method, fixed = resolved(name, where)
    row = Row(
        label=check_name("label", table.take("label", str, name), where),
        method=method.name,
        config={**fixed, **table.take("config", dict, {})},
        stream=table.count("stream", 0, 0),
        protocol=table.take("protocol", dict, {}),
    )
    table.finish()
    parse_protocol(row.protocol, f"{where} protocol", base)
    method.config("", row.config, where)
    return row
