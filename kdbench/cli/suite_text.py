"""What ``show`` says of a suite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields

from kdbench.cli.fields import field, section, values
from kdbench.data import data_root
from kdbench.plan.expand import Selection, expand, inapplicable
from kdbench.protocol import Protocol
from kdbench.suites import SUITES, Row, Suite, get_suite
from kdbench.supervision import FULL
from kdbench.trials.teacher import Teacher


def lines(name: str) -> Iterator[str]:
    """What the suite ``name`` trains, by what protocol, under which teachers."""
    suite = get_suite(name)
    students = expand(suite, Selection(), {pair.dataset: "" for pair in suite.pairs})
    lineages = [trial.teacher.lineage for trial in students if trial.teacher]
    teachers = {made.name for lineage in lineages for made in lineage if made.trained}
    yield f"suite {suite.id}: {suite.title}"
    yield suite.summary
    if suite.short:
        yield "A short suite: its rows can be compared with one another, not with reported numbers."
    yield ""
    yield field("data set", suite.dataset)
    yield field("protocol", f"{values(_unusual(suite.protocol))}; the rest by default")
    if suite.supervision != FULL:
        yield field("supervision", str(suite.supervision))
    yield field("seeds", ", ".join(map(str, suite.seeds)))
    yield field("trials", f"{len(students)} of students" + (f", {len(teachers)} of teachers" if teachers else ""))
    if any(teacher.files for teacher in suite.teachers.values()):
        yield field("weights", f"imported ones lie below {data_root(None) / 'weights'}")
    yield from section("teachers", (_teacher(teacher, suite) for teacher in suite.teachers.values()))
    yield from section("pairs", _pairs(suite))
    yield from section("rows", map(_row, suite.rows))
    if suite.tuning is not None:
        yield from section("rows that are tuned", (f"{suite.tuning}: {', '.join(suite.tuning.labels)}",))
    reasons = inapplicable(suite, Selection())
    yield from section("not applicable", (f"{label} to {pair}: {reason}" for label, pair, reason in reasons))
    yield from section("notes", suite.notes)


def template(name: str) -> str:
    """The text of the suite ``name``, under a name that nobody has."""
    suite = get_suite(name)
    text, _ = SUITES.get(suite.name)
    return re.sub(r"(?m)^name *=.*$", f'name = "my-{suite.name}"', text, count=1)


def _unusual(protocol: Protocol) -> dict[str, object]:
    """The fields that have no default, or another value than that."""
    every = {each.name: (getattr(protocol, each.name), each.default) for each in fields(protocol)}
    return {name: value for name, (value, default) in every.items() if default is MISSING or value != default}


def _changes(protocol: Protocol | None, base: Protocol) -> Mapping[str, object]:
    """What ``protocol`` changes of ``base``."""
    every = {each.name: getattr(base if protocol is None else protocol, each.name) for each in fields(base)}
    return {name: value for name, value in every.items() if value != getattr(base, name)}


def _teacher(teacher: Teacher, suite: Suite) -> str:
    """Where the weights of ``teacher`` come from, or what it is made of."""
    if teacher.composition is not None:
        named = ", ".join(part.name for part in teacher.parts)
        said = [f"{teacher.composition} of {named}" if named else str(teacher.composition)]
        said += [f"seed {teacher.seed}" if teacher.protocol else "", values(_changes(teacher.protocol, suite.protocol))]
    elif teacher.kind == "student":
        wanted, suite_id, pair = teacher.trial
        said = [f"the student {wanted}", f"of {suite_id}" if suite_id else "", f"on {pair}" if pair else ""]
    elif teacher.kind == "checkpoint":
        said = [f"imported from {' or '.join(teacher.files)}", teacher.url]
        said += [f"digest {teacher.weights_sha256}" if teacher.weights_sha256 else ""]
    else:
        said = ["trained here" if teacher.kind == "trained" else "an earlier generation, trained here"]
        said += ["" if teacher.init is None else _start(teacher.init)]
        said += [f"seed {teacher.seed}", values(_changes(teacher.protocol, suite.protocol))]
        said += ["" if teacher.supervision == FULL else str(teacher.supervision)]
    source = "" if teacher.parts else teacher.source  # which names the parts, unless something else is given
    claimed = "" if teacher.claimed_top1 is None else f"claimed to reach {teacher.claimed_top1:g} %"
    return f"{teacher.name}: {teacher.model}, " + "; ".join(filter(None, [*said, claimed, source]))


def _start(init: Teacher) -> str:
    """What a training starts from."""
    head = ", with a new classifier" if init.head else ""
    return f"starting from {' or '.join(init.files)}{head}"


def _pairs(suite: Suite) -> Iterator[str]:
    for pair in suite.pairs:
        changes = values(_changes(pair.protocol, suite.protocol))
        parts = ["" if pair.dataset == suite.dataset else f"on {pair.dataset}", changes]
        parts += ["" if pair.init is None else _start(pair.init)]
        yield ", ".join(filter(None, [f"{pair.name}: {pair.student} under {pair.teacher}", *parts]))


def _row(row: Row) -> str:
    """A row's label, and all in which it differs from its method as it is."""
    parts = ["" if row.label == row.method else row.method, values(row.config), values(row.protocol)]
    parts += [f"stream {row.stream}" if row.stream else "", str(row.supervision or "")]
    text = ", ".join(filter(None, parts))
    return f"{row.label}: {text}" if text else row.label
