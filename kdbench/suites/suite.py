"""The suite: a named, versioned TOML file of data set, protocol, pairs, teachers, methods and seeds."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdbench.data import DATASETS, DatasetSpec
from kdbench.data.checks import check_spec
from kdbench.errors import UnknownName, UserError, listed, plain, shown
from kdbench.methods import METHODS
from kdbench.methods.search import searched
from kdbench.models import get_spec
from kdbench.names import check_name
from kdbench.protocol import Protocol, parse_protocol
from kdbench.registry import Registry
from kdbench.suites.pictures import parse_dataset
from kdbench.suites.start import parse_init, placed
from kdbench.suites.supervised import parse_supervision
from kdbench.suites.table import Table
from kdbench.suites.teacher import TEACHERS, check_seeds, parse_teacher, registered_teacher, resolved
from kdbench.suites.tuning import Tuning, parse_tuning
from kdbench.supervision import FULL, Supervision
from kdbench.toml import parse_toml
from kdbench.trials.teacher import Teacher
from kdbench.trials.trial import DIAGNOSTICS

#: How many teachers a teacher may be a part of, each a part of the next.
DEEPEST = 8

#: Name -> (TOML text, where it lies) of the pairs that plugins offer: what a suite has under [[pairs]].
PAIRS: Registry[tuple[str, str]] = Registry("pair")


@dataclass(frozen=True)
class Pair:
    """A teacher, by name, a student architecture, a data set, and what the protocol changes (a smaller rate, say)."""

    name: str
    teacher: str
    student: str
    protocol: Protocol
    dataset: str
    #: The registered pair that it is, where it was added to the suite.
    added: str = ""
    #: What its students start from, where that is no draw.
    init: Teacher | None = None


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
    #: None stands for the suite's.
    supervision: Supervision | None = None

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
    #: The teachers of pairs on another data set than the suite's, by name and data set.
    elsewhere: Mapping[tuple[str, str], Teacher] = field(default_factory=dict)
    #: What its students are shown; its teachers see every label unless their tables say otherwise.
    supervision: Supervision = FULL
    #: What is measured of each finished student beside its scores (kdbench.trials.trial).
    diagnostics: tuple[str, ...] = ()
    #: How further rows are chosen, if any are.
    tuning: Tuning | None = None
    #: The file that it is read from, where nobody has installed it.
    file: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its rows, and of those that are chosen by tuning."""
        return (*(row.label for row in self.rows), *(self.tuning.labels if self.tuning else ()))

    @property
    def asked(self) -> str:
        """What ``--suite`` is given for it."""
        return shlex.quote(os.path.relpath(self.file)) if self.file else self.name

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets of its pairs, each once, in their order."""
        return tuple(dict.fromkeys(pair.dataset for pair in self.pairs))

    def teacher_of(self, pair: Pair) -> Teacher:
        """The teacher of ``pair`` as it is on the pair's data set, whose normalisation it has by default."""
        return (
            self.teachers[pair.teacher] if pair.dataset == self.dataset else self.elsewhere[pair.teacher, pair.dataset]
        )

    def with_pair(self, pair: Pair, teacher: Teacher) -> Suite:
        """This suite with one more pair, under ``teacher``."""
        if pair.dataset == self.dataset:
            return replace(self, pairs=(*self.pairs, pair), teachers={**self.teachers, pair.teacher: teacher})
        elsewhere = {**self.elsewhere, (pair.teacher, pair.dataset): teacher}
        return replace(self, pairs=(*self.pairs, pair), elsewhere=elsewhere)


def parse_suite(text: str, where: str, home: Path | None = None) -> Suite:
    """Read a suite from TOML; UserError names ``where`` (the file), the line or the field.

    ``home`` is the folder of a suite's own file, which pictures and weights may lie in.
    """
    try:
        return _suite(Table(parse_toml(text, where), where), where, home)
    except UnknownName as error:
        raise UserError(f"{where}: {error}") from None


def _suite(table: Table, where: str, home: Path | None) -> Suite:
    name = check_name("suite", table.take("name", str), where)
    data = table.take("dataset", (str, dict))
    spec = parse_dataset(data, where, home) if isinstance(data, dict) else check_spec(DATASETS.get(data))
    dataset = spec.name
    protocol = parse_protocol(table.take("protocol", dict), f"{where} [protocol]")
    tables = table.take("teachers", dict, {})
    if home is not None:
        tables = {key: _beside(home, raw) for key, raw in tables.items()}
    names = [check_name("teacher", key, where) for key in tables]
    teachers = {key: _teacher(key, tables, spec, protocol, where, home) for key in names}
    elsewhere: dict[tuple[str, str], Teacher] = {}
    pairs = []
    for number, entry in enumerate(table.take("pairs", list), 1):
        place = f"{where} [[pairs]] {number}"
        raw = Table(entry, place)
        data = raw.take("dataset", str, dataset)
        key = raw.take("teacher", str)
        if data == dataset:
            teacher = teachers[key] = teachers.get(key) or _teacher(key, tables, spec, protocol, place, home)
        else:
            teacher = _teacher(key, tables, check_spec(DATASETS.get(data)), protocol, place, home)
            elsewhere[key, data] = teacher
        pairs.append(_pair(raw, key, teacher, data, protocol, home))
    suite = Suite(
        name=name,
        version=table.count("version", 1),
        title=table.take("title", str),
        summary=table.take("summary", str),
        dataset=dataset,
        short=table.take("short", bool, False),
        protocol=protocol,
        supervision=parse_supervision(table.take("supervision", dict, {}), f"{where} supervision", spec),
        seeds=_seeds(table.take("seeds", list), where),
        pairs=tuple(pairs),
        teachers=teachers,
        rows=tuple(
            _row(entry, protocol, spec, f"{where} [[methods]] {number}")
            for number, entry in enumerate(table.take("methods", list), 1)
        ),
        notes=tuple(table.take("notes", list, [])),
        elsewhere=elsewhere,
        diagnostics=_diagnostics(table.take("diagnostics", list, []), where),
        tuning=parse_tuning(table.take("tune", dict), f"{where} [tune]") if "tune" in table.raw else None,
        file="" if home is None else where,
    )
    table.finish()
    _check(suite, where)
    if suite.tuning is not None:
        _check_tuning(suite, suite.tuning, f"{where} [tune]")
    return suite


def _check(suite: Suite, where: str) -> None:
    """What no single table shows: fields that must agree with one another or with the data set."""
    if not (suite.pairs and suite.rows):
        raise UserError(f"{where}: a suite needs [[pairs]] and [[methods]], one of each at least.")
    specs = [DATASETS.get(name) for name in suite.datasets]
    images = min(spec.train_size for spec in specs)
    teachers = (*suite.teachers.values(), *suite.elsewhere.values())
    protocols = {
        suite.protocol,
        *(row.protocol_for(pair) for pair in suite.pairs for row in suite.rows),
        *(each.protocol for teacher in teachers for each in teacher.lineage if each.protocol),
    }
    if max(protocol.holdout for protocol in protocols) >= images:
        raise UserError(f"{where} [protocol]: holdout must be less than the {images} training images.")
    for spec in specs:
        if spec.val_size and (held := {each.holdout for each in protocols} - {0, spec.val_size}):
            raise UserError(
                f"{where} [protocol]: {spec.title} has {spec.val_size} images in a folder val, so that holdout must be "
                f"{spec.val_size}, or 0 to leave them alone, not {min(held)}."
            )
    for pair in suite.pairs:
        check_seeds(suite.teacher_of(pair), pair.student, suite.seeds, where)
    for supervision in (suite.supervision, *(row.supervision for row in suite.rows if row.supervision)):
        for name in suite.datasets:
            if misfit := supervision.misfit(DATASETS.get(name)):
                raise UserError(f"{where}: supervision {supervision.kind}: {misfit}.")
    if any(type(note) is not str for note in suite.notes):
        raise UserError(f"{where}: notes must be a list of sentences.")
    pairs = [pair.name if pair.dataset == suite.dataset else f"{pair.name} on {pair.dataset}" for pair in suite.pairs]
    for noun, names in (("pair", pairs), ("label", list(suite.labels))):
        doubled = sorted(name for name, count in Counter(names).items() if count > 1)
        if doubled:
            raise UserError(f"{where}: the {noun} {doubled[0]!r} occurs twice.")
    starts: dict[tuple[str, str], str] = {}
    for pair in suite.pairs:
        half, init = pair.name.partition(":")[2], pair.init.name if pair.init else ""
        if starts.setdefault((pair.dataset, half), init) != init:
            raise UserError(
                f"{where}: two pairs have the student {half!r} start from different weights; give one of them a name "
                f"of its own, such as {pair.name}-init."
            )
    seen: dict[Hashable, Row] = {}
    for row in suite.rows:
        other = seen.setdefault(_resolved(row, suite.pairs), row)
        if other is not row:
            raise UserError(
                f"{where}: the rows {other.label!r} and {row.label!r} are the same trials; change config or stream."
            )


def _check_tuning(suite: Suite, tuning: Tuning, where: str) -> None:
    """UserError where ``suite`` cannot be tuned as it says."""
    for method in tuning.methods:
        searched(resolved(method, where)[0], where)
    if len(suite.pairs) != 1:
        raise UserError(
            f"{where}: what is chosen is chosen for a pair; a suite with it has one pair, not {len(suite.pairs)}."
        )
    if not suite.protocol.holdout:
        raise UserError(f"{where}: configurations are chosen on held-out images; give the protocol a holdout.")
    if tuning.seed in suite.seeds:
        raise UserError(f"{where}: seed {tuning.seed} is one of the suite's; choose with another than is judged by.")
    check_seeds(suite.teacher_of(suite.pairs[0]), suite.pairs[0].student, (tuning.seed,), where)
    for epochs in tuning.epochs:
        parse_protocol({"epochs": epochs}, f"{where} epochs", suite.pairs[0].protocol)


def _resolved(row: Row, pairs: Sequence[Pair]) -> Hashable:
    """All that tells the trials of a row from those of another."""
    method = METHODS.get(row.method)
    configs = (method.config(pair.name, row.config, row.label) for pair in pairs)
    protocols = tuple(row.protocol_for(pair) for pair in pairs)
    return row.method, row.stream, row.supervision, protocols, tuple(frozenset(config.items()) for config in configs)


def _beside(home: Path, raw: Any) -> Any:
    """The table ``raw`` of a teacher, whose weights are looked for in the folder ``home`` first."""
    files = raw.get("files") if isinstance(raw, dict) else None
    if not isinstance(files, list):
        return raw

    return {**raw, "files": [placed(home, name) if isinstance(name, str) else name for name in files]}


def _seeds(raw: list[Any], where: str) -> tuple[int, ...]:
    if not raw or any(type(s) is not int or s < 0 for s in raw) or len(set(raw)) != len(raw):
        raise UserError(f"{where}: seeds must be a list of different whole numbers from 0, not {shown(raw)}.")
    return tuple(raw)


def _diagnostics(raw: list[Any], where: str) -> tuple[str, ...]:
    if wrong := [each for each in raw if each not in list(DIAGNOSTICS)]:
        raise UserError(f"{where}: diagnostics may list {', '.join(DIAGNOSTICS)}, not {shown(wrong[0])}.")
    return tuple(dict.fromkeys(raw))


def added_row(suite: Suite, setting: str) -> Suite:
    """``suite`` with a row more, which ``setting`` makes of one: ``kd.temperature=2,ce_weight=0.5``.

    What stands before the first full stop is a row's label, or a method with its card's values.
    """
    where = f"--set {setting}"
    first, equals, rest = setting.partition("=")
    label, stop, name = first.rpartition(".")
    if not (equals and stop):
        raise UserError(f"{where}: write ROW.FIELD=VALUE, such as kd.temperature=2, and FIELD=VALUE after a comma.")
    parts = [each.partition("=") for each in f"{name}={rest}".split(",")]
    changes = {field.strip(): _value(text.strip(), where) for field, _, text in parts}
    base = next((row for row in suite.rows if row.label == label), None)
    if base is None:
        if label not in METHODS:
            raise UnknownName(f"row of suite {suite.id}, or method,", label, {*(r.label for r in suite.rows), *METHODS})
        base = Row(label, label, {})
    told = "-".join(f"{field}-{plain(text.strip())}" for field, _, text in parts)
    row = replace(
        base,
        label=check_name("label", re.sub(r"[^A-Za-z0-9_.+-]", "", f"{label}-{told}"), where),
        config={**base.config, **changes},
    )
    METHODS.get(row.method).config("", row.config, where)
    made = replace(suite, rows=(*suite.rows, row))
    _check(made, where)
    return made


def _value(text: str, where: str) -> Any:
    """What ``text`` is as a value of TOML, or itself."""
    try:
        return parse_toml(f"value = {text}", where)["value"]
    except UserError:
        return text


def added_pair(suite: Suite, name: str) -> Suite:
    """``suite`` with the registered pair ``name``, on its data set and under its protocol unless that says more."""
    text, where = PAIRS.get(name)
    raw = Table(parse_toml(text, where), where)
    dataset, key = raw.take("dataset", str, suite.dataset), raw.take("teacher", str)
    own = suite.teachers.get(key) if dataset == suite.dataset else suite.elsewhere.get((key, dataset))
    teacher = own or _teacher(key, {}, check_spec(DATASETS.get(dataset)), suite.protocol, where)
    made = suite.with_pair(replace(_pair(raw, key, teacher, dataset, suite.protocol), added=name), teacher)
    _check(made, where)
    return made


def _teacher(
    key: str,
    tables: Mapping[str, Any],
    data: DatasetSpec,
    base: Protocol,
    where: str,
    home: Path | None = None,
    within: tuple[str, ...] = (),
) -> Teacher:
    """The teacher ``key`` for images of ``data``: the suite's own, from its ``tables``, or a registered one.

    ``home``: the folder of a suite's own file, whose weights may lie outside the data root. ``within``: those that it
    is a part of.
    """
    if len(within) > DEEPEST:
        raise UserError(f"{where}: teacher {shown(key)} is a part of parts more than {DEEPEST} deep.")
    if key in within:
        raise UserError(f"{where}: teacher {shown(key)} is made of itself; name other teachers in 'of'.")

    def other(name: str) -> Teacher:
        return _teacher(name, tables, data, base, where, home, (*within, key))

    if key in tables:
        return parse_teacher(key, tables[key], data, base, f"{where} [teachers.{key}]", other, home)
    if key in TEACHERS:
        return registered_teacher(key, data, base, other)
    raise UserError(
        f"{where}: teacher {shown(key)} is not under [teachers]; "
        f"there are {listed(sorted({*tables, *TEACHERS})) or 'none'}."
    )


def _pair(
    table: Table, teacher_name: str, teacher: Teacher, dataset: str, base: Protocol, home: Path | None = None
) -> Pair:
    where, student = table.where, get_spec(table.take("student", str))
    if teacher.kind == "self" and teacher.model != student.name:
        raise UserError(
            f"{where}: teacher {teacher_name!r} is an earlier generation of {teacher.model} and cannot teach "
            f"{student.name}; make {teacher.model} the student, or the teacher's kind 'trained'."
        )
    protocol = parse_protocol(table.take("protocol", dict, {}), f"{where} protocol", base)
    literature = teacher.name if teacher.composition else get_spec(teacher.model).literature
    name = table.take("name", str, f"{literature}:{student.literature}")
    raw = table.take("init", (str, dict), None)
    init = None if raw is None else parse_init(raw, student.name, DATASETS.get(dataset), where, home)
    table.finish()
    if name.count(":") != 1:
        raise UserError(f"{where}: a pair's name reads teacher:student, not {shown(name)}.")
    for half in name.split(":"):
        check_name("pair", half, where)
    return Pair(name, teacher_name, student.name, protocol, dataset, init=init)


def _row(raw: Any, base: Protocol, data: DatasetSpec, where: str) -> Row:
    table = Table(raw, where)
    name = table.take("name", str)
    supervision = table.take("supervision", dict, {})
    method, fixed = resolved(name, where)
    row = Row(
        label=check_name("label", table.take("label", str, name), where),
        method=method.name,
        config={**fixed, **table.take("config", dict, {})},
        stream=table.count("stream", 0, 0),
        protocol=table.take("protocol", dict, {}),
        supervision=parse_supervision(supervision, f"{where} supervision", data) if supervision else None,
    )
    table.finish()
    parse_protocol(row.protocol, f"{where} protocol", base)
    method.config("", row.config, where)
    return row
