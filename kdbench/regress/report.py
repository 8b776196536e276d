"""A judgement as text, Markdown, JSON, JUnit's XML and annotations of GitHub Actions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from xml.etree import ElementTree

from kdbench.errors import plain
from kdbench.regress.judge import Judged, Judgement, Verdict

HEAD = ("verdict", "row", "pair", "baseline", "now", "drop", "less than", "why")


def outcome(judgement: Judgement) -> str:
    """How many cells have which verdict, in one sentence."""
    counts = ((verdict, len(judgement.of(verdict))) for verdict in Verdict)
    text = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    return f"{judgement.suite} against {judgement.against}: {text}."


def text(judgement: Judgement) -> str:
    """A table for a terminal, and below it what else is to be said."""
    rows = [HEAD, *(_cells(cell) for cell in judgement.cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    table = [
        "  ".join(
            word.rjust(width) if 3 <= column <= 6 else word.ljust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(plain(line) for line in [outcome(judgement), "", *table, "", *_notes(judgement)]).rstrip()


def markdown(judgement: Judgement) -> str:
    """The same for a pull request."""
    rule = [":--", ":--", ":--", "--:", "--:", "--:", "--:", ":--"]
    rows = [HEAD, rule, *(_cells(cell) for cell in judgement.cells)]
    table = ["| " + " | ".join(_escaped(word) for word in row) + " |" for row in rows]
    notes = [f"* {_escaped(note)}" for note in _notes(judgement)]
    return "\n".join([f"**{_escaped(outcome(judgement))}**", "", *table, *([""] if notes else []), *notes])


def as_json(judgement: Judgement) -> str:
    """All that is known, for other programs."""
    cells = [{**asdict(cell), "verdict": str(cell.verdict)} for cell in judgement.cells]
    return json.dumps({**asdict(judgement), "cells": cells}, indent=1, allow_nan=False)


def junit(judgement: Judgement) -> str:
    """A test case a cell: FAIL fails, what cannot be judged is an error, INCONCLUSIVE is skipped."""
    kinds = {
        Verdict.FAIL: "failure",
        Verdict.INCOMPARABLE: "error",
        Verdict.MISSING: "error",
        Verdict.INCONCLUSIVE: "skipped",
    }
    counts = {name: 0 for name in ("failure", "error", "skipped")}
    suite = ElementTree.Element("testsuite", name=f"kdbench regress {judgement.suite}")
    for cell in judgement.cells:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{judgement.suite}.{cell.pair}", name=cell.label)
        if kind := kinds.get(cell.verdict):
            counts[kind] += 1
            ElementTree.SubElement(case, kind, type=str(cell.verdict), message=plain(cell.why))
    suite.set("tests", str(len(judgement.cells)))
    for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(counts[kind]))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def github(judgement: Judgement) -> str:
    """A line for each cell that did not pass, which GitHub Actions shows on the build."""
    lines = []
    for cell in judgement.cells:
        if cell.verdict is not Verdict.PASS:
            level = "warning" if cell.verdict is Verdict.INCONCLUSIVE else "error"
            title = f"{cell.verdict} {cell.label} on {cell.pair}"
            lines.append(f"::{level} title={_property(title)}::{_message(cell.why)}")
    return "\n".join(lines)


#: The ending of a file, and what is written into it.
FORMATS: dict[str, Callable[[Judgement], str]] = {
    "text": text,
    "markdown": markdown,
    "json": as_json,
    "junit": junit,
    "github": github,
}
ENDINGS = {".txt": "text", ".md": "markdown", ".json": "json", ".xml": "junit"}


def _cells(cell: Judged) -> Sequence[str]:
    return (
        str(cell.verdict),
        cell.label,
        cell.pair,
        *(f"{side[0]:.2f} (n {side[1]})" if side else "–" for side in (cell.old, cell.new)),
        *(f"{value:.2f}" if value is not None else "–" for value in (cell.drop, cell.most)),
        cell.why,
    )


def _notes(judgement: Judgement) -> list[str]:
    """What else is not as it was, each once with the rows it holds for; and what nothing is said of."""
    where: dict[str, list[str]] = {}
    for cell in judgement.cells:
        for change in cell.changes:
            where.setdefault(change, []).append(cell.label)
    notes = [
        f"{change} ({', '.join(dict.fromkeys(labels))})" if len(labels) < len(judgement.cells) else change
        for change, labels in where.items()
    ]
    if judgement.unknown:
        notes.append(f"not in the baseline: {', '.join(judgement.unknown)}")
    return notes


def _escaped(word: str) -> str:
    """``word`` in a cell of a Markdown table, whatever it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#!|~" else letter for letter in plain(word))


def _message(words: str) -> str:
    return plain(words).replace("%", "%25")


def _property(words: str) -> str:
    return _message(words).replace(":", "%3A").replace(",", "%2C")
