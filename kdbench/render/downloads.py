"""What a reader takes away: tables as CSV and JSON, the whole site as one JSON document, and BibTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdbench.render.address import method_page, suite_page
from kdbench.render.catalogue import Catalogue
from kdbench.render.measured import Line, Table
from kdbench.render.rows import as_json
from kdbench.stats import aggregate
from kdbench.stats.intervals import Interval

#: Of the whole document, and of its form.
DOCUMENT, SCHEMA = "leaderboard.json", "leaderboard.schema.json"
#: Raised when a field changes its meaning or goes.
VERSION = 1

_TEXTS = ("suite", "dataset", "pair", "label", "method", "evidence", "variant", "selection")
_NUMBERS = ("top1", "top1_low", "top1_high", "gain", "gain_low", "gain_high", "top5", "nll", "ece", "agreement", "cost")
#: The columns of a table to take away.
COLUMNS = (*_TEXTS, "n", *_NUMBERS, "seeds")


@dataclass(frozen=True)
class File:
    """A file of the site that no template makes."""

    path: str
    text: str


def files(catalogue: Catalogue) -> Iterator[File]:
    by_suite: dict[str, list[dict[str, Any]]] = {name: [] for name in catalogue.suites}
    for (suite, _, _), table in sorted(catalogue.tables.items()):
        by_suite[suite] += [_flat(table, line) for line in table.every]
    for suite, rows in by_suite.items():
        yield File(suite_page(suite).removesuffix("html") + "csv", _csv(rows))
        yield File(suite_page(suite).removesuffix("html") + "json", as_json({"version": VERSION, "rows": rows}))
    for name, card in catalogue.cards.items():
        if card.paper is not None and card.paper["bibtex"]:
            yield File(method_page(name).removesuffix("html") + "bib", card.paper["bibtex"].strip() + "\n")
    document = {
        "version": VERSION,
        "schema": SCHEMA,
        "records": catalogue.count,
        "set": catalogue.digest,
        "latest": catalogue.latest,
        "rows": [row for rows in by_suite.values() for row in rows],
    }
    yield File(DOCUMENT, as_json(document))
    yield File(SCHEMA, as_json(schema()))


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
            "rows": {"type": "array", "items": {"type": "object", "required": list(COLUMNS), "properties": row}},
        },
    }


def _flat(table: Table, line: Line) -> dict[str, Any]:
    cell = line.cell
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
        **{name: None if found is None else found.mean for name, found in line.metrics.items()},
        "cost": None if line.cost is None else line.cost.middle,
        "seeds": {str(seed): value for seed, value in aggregate.by_seed(cell, "top1", table.selection).items()},
    }


def _interval(name: str, found: Interval | None) -> dict[str, float | None]:
    mean, low, high = (None, None, None) if found is None else (found.mean, found.low, found.high)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _csv(rows: list[dict[str, Any]]) -> str:
    """A line a row. A text that a spreadsheet would take for a formula begins with an apostrophe there."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        seeds = "; ".join(f"{seed}: {value:.4f}" for seed, value in row["seeds"].items())
        writer.writerow({**{name: _harmless(value) for name, value in row.items()}, "seeds": seeds})
    return out.getvalue()


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
