"""Printed numbers of the literature and their sources, read from two CSV files and checked field by field."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, reason
from kdbench.records.reading import read_file
from kdbench.records.validate import check, schema
from kdbench.shipped import shipped

_NUMBER = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")
_NUMERIC = ("value", "std", "teacher_value", "student_baseline")
#: The largest number that can be printed of a metric, where that is not 100 percent: words can be wrong that none said.
_MOST = {"test_errors_of_10000": 10_000.0, "wer": 1_000.0}


@dataclass(frozen=True, slots=True)
class Reported:
    """One printed number (schema ``reported.v1.json``); ``printed`` and ``printed_std`` keep the digits as printed.

    ``recipe`` names how the students were trained, where that is known; ``apart`` says why a number may not be set
    beside those of the same pair.
    """

    dataset: str
    teacher: str
    student: str
    method: str
    metric: str
    value: float
    std: float | None
    selection: str
    provenance: str
    teacher_value: float | None
    student_baseline: float | None
    source: str
    locator: str
    notes: str
    printed: str
    printed_std: str
    recipe: str = ""
    apart: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A paper, repository or thread that prints numbers (schema ``source.v1.json``).

    ``proposes`` has the methods that are its authors' own, with spaces between; "-" where it runs only others', and
    nothing where nobody has told.
    """

    source: str
    citation: str
    identifier: str
    repository: str
    commit: str
    year: int | None = None
    proposes: str = ""

    @property
    def work(self) -> str:
        """What it shares with other sources of the same people: papers and logs of one method in one repository."""
        return f"{self.repository or self.source} {self.proposes}".strip()


@dataclass(frozen=True)
class Literature:
    """Every reported row in file order, and the sources by name."""

    rows: tuple[Reported, ...]
    sources: Mapping[str, Source]


def load(folder: Path | None = None, wrong: list[str] | None = None) -> Literature:
    """Read ``published.csv`` and ``sources.csv`` in ``folder``, or the copy shipped with kdbench.

    UserError names the file, the row (the header is row 1) and the field that is wrong. ``wrong``: takes a sentence for
    each row that is, which is left out then, as are the numbers of a source that is.
    """
    folder = shipped("reported") if folder is None else folder
    sources: dict[str, Source] = {}
    for where, raw in _read(folder / "sources.csv", "source", wrong):
        with _or_left_out(wrong, "source"):
            source = _source(where, raw)
            if source.source in sources:
                raise UserError(f"{where}: source: {source.source!r} occurs twice.")
            sources[source.source] = source
    rows = []
    for where, raw in _read(folder / "published.csv", "reported", wrong):
        with _or_left_out(wrong, "number"):
            rows.append(_reported(where, raw, sources))
    return Literature(tuple(rows), sources)


@contextmanager
def _or_left_out(wrong: list[str] | None, what: str) -> Iterator[None]:
    """``wrong``, if given, takes the UserError of what is done here, with the sentence that it is left out."""
    try:
        yield
    except UserError as error:
        if wrong is None:
            raise
        wrong.append(f"{error} This {what} is left out.")


def _source(where: str, raw: Mapping[str, str]) -> Source:
    told: dict[str, Any] = {**raw, "year": _year(raw["year"], f"{where}: year")}
    check("source", told, where)
    return Source(**told)


def _reported(where: str, raw: Mapping[str, str], sources: Mapping[str, Source]) -> Reported:
    document: dict[str, Any] = dict(raw)
    for field in _NUMERIC:
        document[field] = _number(raw[field], f"{where}: {field}")
    check("reported", document, where)
    most = _MOST.get(raw["metric"], 100.0)
    for field in _NUMERIC:
        if document[field] is not None and not 0 <= document[field] <= most:
            raise UserError(f"{where}: {field}: {raw[field]} is no {raw['metric']}, which is from 0 to {most:g}.")
    if raw["source"] not in sources:
        raise UserError(f"{where}: source: {raw['source']!r} is not in sources.csv.")
    return Reported(**document, printed=raw["value"], printed_std=raw["std"])


def _number(text: str, where: str) -> float | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise UserError(f"{where}: {text!r} is not a decimal number.")
    return float(text)


def _year(text: str, where: str) -> int | None:
    if text and not re.fullmatch("[0-9]{4}", text):
        raise UserError(f"{where}: {text!r} is not a year.")
    return int(text) if text else None


def _read(path: Path, kind: str, wrong: list[str] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of ``path`` with its place; the columns must be the fields of the schema ``kind``, source or reported.

    One that is not required may be missing, and is empty then. ``wrong``: takes a sentence for each row of another
    number of fields, which is left out.
    """
    wanted, required = list(schema(kind)["properties"]), set(schema(kind)["required"])
    if not path.exists():
        raise UserError(f"{path}: there is no such file; reported numbers need published.csv and sources.csv.")
    try:
        text = read_file(path).decode("utf-8")
        if "\0" in text:
            raise ValueError("it holds a NUL byte")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = reader.fieldnames or ()
        if not required <= set(names) <= set(wanted) or len(set(names)) != len(names):
            raise UserError(f"{path}: row 1: the columns must be {', '.join(wanted)}.")
        for number, row in enumerate(reader, start=2):
            where = f"{path}: row {number}"
            if None in row or None in row.values():
                if wrong is None:
                    raise UserError(f"{where}: it must have {len(names)} fields.")
                what = "source" if kind == "source" else "number"
                wrong.append(f"{where}: it must have {len(names)} fields. This {what} is left out.")
                continue
            yield where, {name: row.get(name, "") for name in wanted}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file in UTF-8: {reason(error)}.") from None
