"""Results and the literature as pandas tables: one row a result, one a printed number, and a unit for each column."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from kdbench.canonical import canonical
from kdbench.errors import UserError
from kdbench.records.agreement import TEACHER as TEACHERS_LABEL
from kdbench.records.inventory import take_inventory, without_collecting
from kdbench.records.literature import load
from kdbench.records.store import Store
from kdbench.shipped import shipped
from kdbench.stats.aggregate import NO_TEACHER, SELECTIONS

Record = Mapping[str, Any]


class Column(NamedTuple):
    """A column: its name, its unit in words, "" where it has none, and its dtype."""

    name: str
    unit: str = ""
    dtype: str = "string"


TEXT, NUMBER, COUNT, TRUTH, TIME = "string", "float64", "Int64", "boolean", "datetime64[s, UTC]"

#: What a result is, and where it comes from.
RESULT = (
    *map(Column, ("suite", "dataset", "pair", "teacher", "student", "label", "method")),
    Column("method_version", "", COUNT),
    *map(Column, ("config", "student_model")),
    Column("seed", "", COUNT),
    Column("stream", "", COUNT),
    Column("protocol"),
    Column("epochs", "epochs", COUNT),
    *map(Column, ("precision", "supervision", "status", "detail", "evidence")),
    Column("recomputed", "", TRUTH),
    Column("measurements", "records", COUNT),
    *map(Column, ("torch", "device", "device_name", "driver", "isa", "kdbench", "git_sha")),
    Column("git_dirty", "", TRUTH),
    Column("plugin_sha256"),
    Column("created", "", TIME),
    Column("attempts", "workers", COUNT),
    Column("resumed", "times", COUNT),
    *map(Column, ("warnings", "key", "weights_sha256", "predictions_sha256", "file")),
)
#: What it scored, at each selection.
SCORE = (
    Column("epoch", "epochs", COUNT),
    Column("top1", "percent", NUMBER),
    Column("top5", "percent", NUMBER),
    Column("nll", "nats", NUMBER),
    Column("ece", "0 to 1", NUMBER),
    Column("entropy", "nats", NUMBER),
    Column("agreement", "percent", NUMBER),
    Column("kl_to_teacher", "nats", NUMBER),
    Column("val_top1", "percent", NUMBER),
)
TEACHER = (
    Column("kind"),
    Column("model"),
    Column("top1", "percent", NUMBER),
    Column("top5", "percent", NUMBER),
    Column("claimed_top1", "percent", NUMBER),
    Column("unreliability", "0 to 1", NUMBER),
    Column("ambiguity", "0 to 1", NUMBER),
    Column("weights_sha256"),
)
COST = (
    Column("parameters", "parameters", COUNT),
    Column("flops", "operations", COUNT),
    Column("train_images_per_s", "images a second", NUMBER),
    Column("train_images_per_s_shared", "images a second", NUMBER),
    Column("inference_images_per_s", "images a second", NUMBER),
    Column("seconds", "seconds", NUMBER),
    Column("peak_memory_bytes", "bytes", COUNT),
    Column("cohort_size", "trials", COUNT),
    Column("ratio_to_ce", "times", NUMBER),
    Column("inference_images_per_s_single", "images a second", NUMBER),
    Column("inference_images_per_s_best", "images a second", NUMBER),
    Column("inference_best_batch", "images", COUNT),
    Column("inference_fraction", "0 to 1", NUMBER),
    Column("train_fraction", "0 to 1", NUMBER),
    Column("reference_images_per_s", "images a second", NUMBER),
    Column("ceiling_gflops_per_s", "10^9 operations a second", NUMBER),
)
#: What rows are sorted by.
ORDER = itemgetter("suite", "dataset", "pair", "label", "evidence", "seed", "stream", "file")
#: Section of a record, or selection -> its columns, before whose names its own stands.
SECTIONS = {**dict.fromkeys(SELECTIONS, SCORE), "teacher": TEACHER, "cost": COST}
#: A printed number of the literature, and the source that printed it.
REPORTED = (
    *map(Column, ("dataset", "teacher", "student", "method", "metric")),
    *(Column(name, "that of the metric", NUMBER) for name in ("value", "std")),
    *map(Column, ("selection", "provenance")),
    *(Column(name, "that of the metric", NUMBER) for name in ("teacher_value", "student_baseline")),
    *map(Column, ("recipe", "apart", "source", "locator", "notes", "printed", "printed_std", "citation")),
    Column("year", dtype=COUNT),
    *map(Column, ("identifier", "repository", "commit")),
)


def load_results(folder: str | Path | None = None) -> pd.DataFrame:
    """The results in ``folder``, or those that came with kdbench: one row a result in each suite that shows it.

    They are what the pages show, each score recomputed from the stored predictions; what is set apart is counted in a
    warning. docs/results.md explains the columns.
    """
    root = shipped("results") if folder is None else Path(folder)
    if not (root / "v1").is_dir():
        raise UserError(f"{root} is no results folder, which has a folder v1; name one that kdbench run has written.")
    with without_collecting():
        found = take_inventory(Store(root))
        frame, apart = _results(found.rows), len(found.problems)
        del found  # before anybody looks for garbage in it
    if apart:
        text = f"{apart} records or files of {root} are set apart; kdbench results validate names each."
        warnings.warn(text, stacklevel=2)
    return frame


def load_reported(folder: str | Path | None = None) -> pd.DataFrame:
    """What papers and repositories print, from ``folder`` or as it came with kdbench: one row a number."""
    literature = load(None if folder is None else Path(folder))
    sources = {name: asdict(source) for name, source in literature.sources.items()}
    rows = ({**sources[row.source], **asdict(row)} for row in literature.rows)
    return pd.DataFrame({column.name: values for column, values in _series(REPORTED, rows)})


def _results(placed: Iterable[Record]) -> pd.DataFrame:
    rows = sorted((row for row in placed if row["label"] != TEACHERS_LABEL), key=ORDER)
    protocols = {id(row["identity"]["protocol"]): row["identity"]["protocol"] for row in rows}  # one for many rows
    written = {place: canonical(protocol).decode() for place, protocol in protocols.items()}
    made = {column.name: values for column, values in _series(RESULT, (_result(row, written) for row in rows))}
    for name, columns in SECTIONS.items():
        parts = (row["scores"][name] if columns is SCORE else row[name] for row in rows)
        made |= {f"{name}_{column.name}": values for column, values in _series(columns, parts)}
    return pd.DataFrame(made)


def _result(row: Record, protocols: Mapping[int, str]) -> Record:
    """The columns RESULT of ``row``, and more; ``protocols`` has its protocol's text, by id()."""
    teacher, _, student = row["pair"].partition(":")
    planned, made = row["identity"], row["provenance"]
    method, protocol = planned.get("method"), planned["protocol"]
    return {
        **row,
        **(row["numerics"] or {}),
        **made,
        "teacher": None if teacher == NO_TEACHER else teacher,
        "student": student,
        "method_version": _count(method.get("version")) if isinstance(method, Mapping) else None,
        "config": canonical(row["config"]).decode(),
        "seed": _count(row["seed"]),
        "stream": _count(row["stream"]),
        "protocol": protocols[id(protocol)],
        "epochs": _count(protocol["epochs"]),
        "supervision": _text(planned.get("supervision")),
        "recomputed": row["predictions"] is not None,
        "measurements": len(row.get("costs", (row,))),
        "attempts": _count(made["attempts"]),
        "resumed": _count(made["resumed"]),
        "warnings": "\n".join(row["warnings"]),
        "predictions_sha256": row["predictions"] and row["predictions"]["sha256"],
    }


def _text(value: object) -> str | None:
    """A text as it is, and what is more than one as JSON."""
    return value if isinstance(value, str) or value is None else canonical(value).decode()


def _count(value: object) -> int | None:
    """``value``, which anybody may have written, where a column can hold it."""
    return value if type(value) is int and abs(value) < 2**63 else None


def _series(columns: Sequence[Column], parts: Iterable[Record | None]) -> Iterator[tuple[Column, Any]]:
    """Each of ``columns`` with its values, one of each of ``parts``; of None all are missing."""
    names = [column.name for column in columns]
    rows = [tuple(map((part or {}).get, names)) for part in parts]
    for column, values in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        if column.dtype == TIME:
            times = pd.to_datetime(pd.Series(values, dtype=TEXT), utc=True, format="ISO8601", errors="coerce")
            yield column, times.astype(TIME)
        else:
            yield column, pd.Series(values, dtype=column.dtype)
