"""What a reader takes away: tables as CSV and JSON, the whole site as one JSON document, and BibTeX."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench import __version__
from kdbench.records.literature import Reported
from kdbench.records.reported import gain
from kdbench.records.verify import Record
from kdbench.render.address import method_page, pair_page, study_page, suite_page
from kdbench.render.answers import Answer
from kdbench.render.bibtex import bibtex, citable, sources
from kdbench.render.catalogue import Catalogue, PairName
from kdbench.render.grid import Grid
from kdbench.render.measured import Line, Table
from kdbench.render.rows import as_json
from kdbench.render.studies import StudyView
from kdbench.render.teachers import Teachers
from kdbench.render.texts import visible
from kdbench.render.versus import Versus
from kdbench.stats import aggregate
from kdbench.stats.evidence import Evidence
from kdbench.stats.intervals import Interval

#: Of the whole document, and of its form.
DOCUMENT, SCHEMA = "leaderboard.json", "leaderboard.schema.json"
#: The file of the table of methods and data sets.
GAINS = "methods--gains.csv"
#: Every record that is shown: whose it is, and what made it.
RECORDS = "records.csv"
_RECORD = ("key", "suite", "dataset", "pair", "label", "method", "seed", "stream", "status", "evidence")
_MADE = ("created", "kdbench", "git_sha", "torch", "device_name", "isa", "weights_sha256", "predictions", "file")
TEACHER = ("name", "kind", "model", "top1", "top5", "claimed_top1", "unreliability", "ambiguity", "top_k")
#: What the files of a suite's records and of a pair's or method's printed numbers end with.
RECORDED, REPORTED = "--records.csv", "--reported.csv"
#: As LICENSE and NOTICE have it.
LICENCE = (
    "kdbench and the records that come with it: Apache-2.0; other records: as their makers say; "
    "printed numbers are facts, each with its source"
)
#: Raised when a field changes its meaning or goes.
VERSION = 1

_TEXTS = ("suite", "dataset", "pair", "label", "method", "evidence", "variant", "selection")
#: ``rank`` to ``rank_last``, and gains whose intervals are moderated, over seeds and over test images, too, are among
#: the rows of one suite and pair.
_NUMBERS = (
    *("top1", "top1_low", "top1_high", "gain", "gain_low", "gain_high", "rank", "rank_last"),
    *("gain_moderated", "gain_moderated_low", "gain_moderated_high", "gain_images_low", "gain_images_high"),
    *("top5", "nll", "ece", "agreement", "cost"),
)
#: The columns of a table to take away.
COLUMNS = (*_TEXTS, "n", *_NUMBERS, "seeds")
#: Those of a table of printed numbers.
PRINTED = (*(field.name for field in dataclasses.fields(Reported)), "gain")
#: Those of the tables of options, of differences between two methods, and of a study's claims.
OPTIONS = (
    *("dataset", "teacher", "student", "place", "method", "row", "evidence"),
    *("measured_gain", "reported_gain", "sources", "cost", "passes", "needs"),
)
DIFFERENCES = (
    *("one", "other", "evidence", "where", "dataset", "pair", "selection"),
    *("difference", "difference_low", "difference_high", "n", "apart", "twice"),
)
CLAIMS = ("claim", "text", "source", "claimed", "verdict", "estimate", "low", "high", "n")

Row = dict[str, Any]


#: What a text begins with that a spreadsheet takes for a formula, unless it is a number.
_FORMULA = frozenset("=+-@")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
#: Writers and readers of CSV differ on where a line ends.
_BREAKS = re.compile(r"[\t\r\n\v\f\x85\u2028\u2029]+")


@dataclass(frozen=True)
class File:
    """A file of the site that no template makes."""

    path: str
    text: str


def files(catalogue: Catalogue) -> Iterator[File]:
    """The whole document with its schema, and the rows of each suite, pair and method with the papers behind them."""
    by_suite: dict[str, list[Row]] = {name: [] for name in catalogue.suites}
    recorded: dict[str, list[Record]] = defaultdict(list)
    by_pair: dict[PairName, list[Row]] = defaultdict(list)
    by_method: dict[str, list[Row]] = defaultdict(list)
    for (suite, _, _), table in sorted(catalogue.tables.items()):
        for line in table.every:
            row = _flat(catalogue, table, line)
            recorded[suite] += line.cell.records
            by_suite[suite].append(row)
            by_pair[table.names].append(row)
            by_method[line.cell.method].append(row)
    for suite, rows in by_suite.items():
        yield from _together(suite_page(suite), rows)
        yield _records(suite_page(suite).removesuffix(".html") + RECORDED, recorded[suite])
        yield cited(catalogue, suite_page(suite), {row["method"] for row in rows})
    for name in catalogue.pairs:
        printed = catalogue.reported_by_pair.get(name, [])
        yield from _together(pair_page(*name), by_pair[name], printed)
        methods = {row["method"] for row in by_pair[name]} | {row.method for row in printed}
        yield cited(catalogue, pair_page(*name), methods)
    for method in catalogue.methods:
        yield from _together(method_page(method), by_method[method], catalogue.reported_by_method.get(method, []))
        if citable(catalogue, method):
            yield cited(catalogue, method_page(method), [method])
    if catalogue.literature.rows:
        yield from listed("literature.html", PRINTED, map(_printed, catalogue.literature.rows))
        yield File(beside("literature.html", "bib"), sources(catalogue))
    document = {
        "version": VERSION,
        "schema": SCHEMA,
        "kdbench": __version__,
        "licence": LICENCE,
        "records": catalogue.count,
        "set": catalogue.digest,
        "latest": catalogue.latest,
        "built": catalogue.built,
        "reported": [_printed(row) for row in catalogue.literature.rows],
        "rows": [row for rows in by_suite.values() for row in rows],
    }
    yield File(DOCUMENT, as_json(document))
    yield _records(RECORDS, (*catalogue.records, *catalogue.trainings))
    yield File(SCHEMA, as_json(schema()))


def gains(grid: Grid) -> File:
    """The gains of every row on every data set, beside the page of all methods."""
    rows = [cell.flat() for cell in grid.cells]
    return File(GAINS, _csv(rows, tuple(rows[0])))


def cited(catalogue: Catalogue, page: str, methods: Iterable[str]) -> File:
    """The papers of ``methods`` as BibTeX, beside ``page``."""
    return File(beside(page, "bib"), bibtex(catalogue, methods))


def taught(found: Teachers) -> Iterator[File]:
    """Every teacher with what was measured of it."""
    rows = [
        {
            "dataset": teacher.dataset,
            "suites": " ".join(teacher.suites),
            **{name: teacher.facts[name] for name in (*TEACHER, "weights_sha256")},
            "page": teacher.page,
        }
        for teacher in found.every
    ]
    yield from listed("teachers.html", ("dataset", "suites", *TEACHER, "weights_sha256", "page"), rows)


def _records(path: str, records: Iterable[Record]) -> File:
    """Each of ``records`` once, whose it is and what made it."""
    return File(path, _csv(_once(records), (*_RECORD, *_MADE)))


def _once(records: Iterable[Record]) -> Iterator[Row]:
    seen: set[tuple[str, str]] = set()
    for record in records:
        place = record["key"], record.get("file", "")
        if place not in seen:
            seen.add(place)
            made = {**record["provenance"], **(record["numerics"] or {}), **record}
            made["predictions"] = (record["predictions"] or {}).get("sha256")
            yield {name: made.get(name) for name in (*_RECORD, *_MADE)}


def answered(found: Iterable[Answer]) -> Iterator[File]:
    """Every option of every pair, the best-supported first."""
    rows: list[Row] = []
    for answer in found:
        for place, option in enumerate(answer.options, 1):
            evidence = option.evidence
            reported = evidence.reported
            rows.append(
                {
                    **dict(zip(("dataset", "teacher", "student"), answer.pair, strict=True)),
                    "place": place,
                    "method": evidence.method,
                    "row": evidence.row,
                    "evidence": evidence.grade,
                    "measured_gain": _mean(evidence),
                    "reported_gain": None if reported is None else reported.middle,
                    "sources": len(evidence.sources),
                    "cost": None if option.cost is None else option.cost.middle,
                    "passes": option.passes,
                    "needs": " ".join(option.needs),
                }
            )
    yield from listed("choose.html", OPTIONS, rows)


def compared(found: Iterable[Versus]) -> Iterator[File]:
    """Every measured difference of two methods, and every one that a source prints."""
    rows: list[Row] = []
    for versus in found:
        two = {"one": versus.one, "other": versus.other}
        for place in versus.places:
            where = {"dataset": place.table.dataset, "pair": place.table.pair, "selection": place.table.selection}
            met = place.found.difference
            numbers = {**_interval("difference", met), "n": met.n, "apart": place.found.apart, "twice": place.twice}
            rows.append({**two, "evidence": "measured", "where": place.table.suite, **where, **numbers})
        for both in versus.printed:
            dataset, teacher, student = both.pair
            where = {"dataset": dataset, "pair": f"{teacher}:{student}", "selection": both.one.selection}
            numbers = dict.fromkeys(DIFFERENCES[7:]) | {"difference": both.difference}
            rows.append({**two, "evidence": "reported", "where": both.one.source, **where, **numbers})
    yield from listed("compare.html", DIFFERENCES, rows)


def judged(view: StudyView) -> Iterator[File]:
    """The claims of a study and their verdicts."""
    rows = [
        {
            "claim": each.judged.claim.name,
            "text": each.judged.claim.text,
            "source": each.judged.claim.source,
            "claimed": each.claimed,
            "verdict": each.judged.verdict.value,
            **{name: _known(getattr(each.judged.finding, name, None)) for name in ("estimate", "low", "high", "n")},
        }
        for each in view.claims
    ]
    yield from listed(study_page(view.study.name), CLAIMS, rows)


def _known(value: float | None) -> float | None:
    """``value`` if it is a number that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None


def _mean(evidence: Evidence) -> float | None:
    """The gain of its best-placed row that was measured beside the student alone."""
    gains = (found.standing.gain for found in evidence.measured)
    return next((gain.mean for gain in gains if gain is not None), None)


def beside(page: str, suffix: str) -> str:
    """The file with ``suffix`` that lies beside ``page`` and says the same."""
    return f"{page.removesuffix('html')}{suffix}"


def listed(page: str, columns: Sequence[str], rows: Iterable[Row]) -> Iterator[File]:
    """``rows`` as CSV and as JSON beside ``page``."""
    rows = list(rows)
    yield File(beside(page, "csv"), _csv(rows, columns))
    yield File(beside(page, "json"), as_json({"version": VERSION, "rows": rows}))


def _together(page: str, rows: list[Row], printed: Sequence[Reported] = ()) -> Iterator[File]:
    """Measured ``rows`` and ``printed`` numbers, which are never one table: two CSV files and one JSON document."""
    reported = [_printed(row) for row in printed]
    if rows:
        yield File(beside(page, "csv"), _csv(rows, COLUMNS))
    if reported:
        yield File(page.removesuffix(".html") + REPORTED, _csv(reported, PRINTED))
    yield File(beside(page, "json"), as_json({"version": VERSION, "rows": rows, "reported": reported}))


def _printed(row: Reported) -> Row:
    return {name: gain(row) if name == "gain" else getattr(row, name) for name in PRINTED}


def schema() -> dict[str, Any]:
    """The JSON schema of the whole document."""
    number = {"type": ["number", "null"]}
    row = {
        **{name: {"type": "string"} for name in _TEXTS},
        **{name: number for name in _NUMBERS},
        "n": {"type": "integer", "description": "finished seeds"},
        "seeds": {"type": "object", "description": "seed -> top-1", "additionalProperties": {"type": "number"}},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A kdbench leaderboard",
        "description": "Scores in percent but NLL (nats) and ECE (0 to 1); cost is a ratio to the student alone.",
        "type": "object",
        "required": ["version", "rows"],
        "properties": {
            "version": {"const": VERSION},
            "built": {"type": "string", "description": "the day on which the site was; empty where nobody says"},
            "latest": {"type": "string", "description": "when the newest record was made"},
            "reported": {"type": "array", "items": {"type": "object", "required": list(PRINTED)}},
            "rows": {"type": "array", "items": {"type": "object", "required": list(COLUMNS), "properties": row}},
        },
    }


def _flat(catalogue: Catalogue, table: Table, line: Line) -> Row:
    cell = line.cell
    found = catalogue.standings_of(table)
    at = found.places.get(cell.label) if cell.measured and table.of_label.get(cell.label) is line else None
    standing = None if at is None else found.rows[at]
    images = None if standing is None else standing.gain_on_images
    return {
        "suite": table.suite,
        "dataset": table.dataset,
        "pair": table.pair,
        "label": cell.label,
        "method": cell.method,
        "evidence": cell.evidence,
        "variant": line.variant,
        "selection": table.selection,
        "n": line.top1.n if line.top1 else 0,
        **_interval("top1", line.top1),
        **_interval("gain", line.gain),
        "rank": None if standing is None else standing.rank[0],
        "rank_last": None if standing is None else standing.rank[1],
        **_interval("gain_moderated", None if standing is None else standing.gain),
        "gain_images_low": None if images is None else images.low,
        "gain_images_high": None if images is None else images.high,
        **{name: None if found is None else found.mean for name, found in line.metrics.items()},
        "cost": None if line.cost is None else line.cost.middle,
        "seeds": {str(seed): value for seed, value in aggregate.by_seed(cell, "top1", table.selection).items()},
    }


def _interval(name: str, found: Interval | None) -> dict[str, float | None]:
    mean, low, high = (None, None, None) if found is None else (found.mean, found.low, found.high)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _csv(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A line a row. A text that a spreadsheet would take for a formula begins with an apostrophe there."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, dict):  # seed -> accuracy
        return "; ".join(f"{seed}: {number:.4f}" for seed, number in value.items())
    if isinstance(value, float):
        return round(value, 6)
    if not isinstance(value, str):
        return value
    text = value if value.isascii() and value.isprintable() else visible(_BREAKS.sub(" ", value))
    return f"'{text}" if text[:1] in _FORMULA and not _NUMBER.fullmatch(text) else text
