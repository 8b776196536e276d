"""Results and the literature as pandas tables: one row a result, one a printed number, and a unit for each column."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from kdbench.canonical import canonical
from kdbench.errors import UserError
from kdbench.records.agreement import TEACHER
from kdbench.records.inventory import take_inventory
from kdbench.records.literature import load
from kdbench.records.store import Store
from kdbench.shipped import shipped
from kdbench.stats.aggregate import NO_TEACHER, SELECTIONS

Record = Mapping[str, Any]


class Column(NamedTuple):
    """A column: its unit in words, or "" where it has none, its dtype, and where in a record it stands."""

    name: str
    unit: str
    dtype: str
    path: tuple[str, ...]


TEXT, NUMBER, COUNT, TRUTH, TIME = "string", "float64", "Int64", "boolean", "datetime64[s, UTC]"

_SCORES = {
    "epoch": ("epochs", COUNT),
    "top1": ("percent", NUMBER),
    "top5": ("percent", NUMBER),
    "nll": ("nats", NUMBER),
    "ece": ("0 to 1", NUMBER),
    "entropy": ("nats", NUMBER),
    "agreement": ("percent", NUMBER),
    "kl_to_teacher": ("nats", NUMBER),
    "val_top1": ("percent", NUMBER),
}
_COSTS = {
    "parameters": ("parameters", COUNT),
    "flops": ("operations", COUNT),
    "train_images_per_s": ("images a second", NUMBER),
    "train_images_per_s_shared": ("images a second", NUMBER),
    "inference_images_per_s": ("images a second", NUMBER),
    "seconds": ("seconds", NUMBER),
    "peak_memory_bytes": ("bytes", COUNT),
    "cohort_size": ("trials", COUNT),
    "ratio_to_ce": ("times", NUMBER),
    "inference_images_per_s_single": ("images a second", NUMBER),
    "inference_images_per_s_best": ("images a second", NUMBER),
    "inference_best_batch": ("images", COUNT),
    "inference_fraction": ("0 to 1", NUMBER),
    "train_fraction": ("0 to 1", NUMBER),
    "reference_images_per_s": ("images a second", NUMBER),
    "ceiling_gflops_per_s": ("10^9 operations a second", NUMBER),
}
_TEACHER = {
    "kind": ("", TEXT),
    "model": ("", TEXT),
    "top1": ("percent", NUMBER),
    "top5": ("percent", NUMBER),
    "claimed_top1": ("percent", NUMBER),
    "unreliability": ("0 to 1", NUMBER),
    "ambiguity": ("0 to 1", NUMBER),
    "weights_sha256": ("", TEXT),
}
_NUMERICS = ("torch", "device", "device_name", "driver", "isa")


def _columns() -> Iterator[Column]:
    def at(path: str, unit: str = "", dtype: str = TEXT, name: str = "") -> Column:
        parts = tuple(path.split("/"))
        return Column(name or parts[-1], unit, dtype, parts)

    yield from map(at, ("suite", "dataset", "pair", "teacher_name", "student_name", "label", "method"))
    yield at("identity/method/version", dtype=COUNT, name="method_version")
    yield from map(at, ("config", "student_model"))
    yield from (at("seed", dtype=COUNT), at("stream", dtype=COUNT), at("protocol"))
    yield at("identity/protocol/epochs", "epochs", COUNT)
    yield at("identity/protocol/precision")
    yield from map(at, ("status", "detail", "evidence"))
    yield from (at("recomputed", dtype=TRUTH), at("measurements", "records", COUNT))
    for selection in SELECTIONS:
        for field, (unit, dtype) in _SCORES.items():
            yield at(f"scores/{selection}/{field}", unit, dtype, f"{selection}_{field}")
    for field, (unit, dtype) in _TEACHER.items():
        yield at(f"teacher/{field}", unit, dtype, f"teacher_{field}")
    for field, (unit, dtype) in _COSTS.items():
        yield at(f"cost/{field}", unit, dtype, f"cost_{field}")
    for field in _NUMERICS:
        yield at(f"numerics/{field}")
    yield at("provenance/kdbench", name="kdbench")
    yield from (at("provenance/git_sha"), at("provenance/git_dirty", dtype=TRUTH), at("provenance/plugin_sha256"))
    yield at("provenance/created", dtype=TIME)
    yield from (at("provenance/attempts", dtype=COUNT), at("provenance/resumed", dtype=COUNT))
    yield from map(at, ("warnings", "key", "weights_sha256"))
    yield at("predictions/sha256", name="predictions_sha256")
    yield at("file")


#: The columns of results, in their order.
RESULTS = tuple(_columns())
#: Those of the literature: a printed number, and the source that printed it.
REPORTED = tuple(
    starmap(
        lambda name, unit="", dtype=TEXT: Column(name, unit, dtype, (name,)),
        (
            *(("dataset",), ("teacher",), ("student",), ("method",), ("metric",)),
            ("value", "that of the metric", NUMBER),
            ("std", "that of the metric", NUMBER),
            *(("selection",), ("provenance",)),
            ("teacher_value", "that of the metric", NUMBER),
            ("student_baseline", "that of the metric", NUMBER),
            *(("source",), ("locator",), ("notes",), ("printed",), ("printed_std",)),
            *(("citation",), ("identifier",), ("repository",), ("commit",)),
        ),
    )
)


def load_results(folder: str | Path | None = None) -> pd.DataFrame:
    """The results in ``folder``, or those that came with kdbench: one row a result in each suite that shows it.

    They are what the pages show, each score recomputed from the stored predictions; what is set apart is counted in a
    warning. docs/results.md explains the columns.
    """
    root = shipped("results") if folder is None else Path(folder)
    if not (root / "v1").is_dir():
        raise UserError(f"{root} is no results folder, which has a folder v1; name one that kdbench run has written.")
    found = take_inventory(Store(root))
    if found.problems:
        text = f"{len(found.problems)} records or files of {root} are set apart; kdbench results validate names each."
        warnings.warn(text, stacklevel=2)
    rows = sorted((row for row in found.rows if row["label"] != TEACHER), key=_order)
    return _frame(RESULTS, [_flat(row) for row in rows])


def load_reported(folder: str | Path | None = None) -> pd.DataFrame:
    """What papers and repositories print, from ``folder`` or as it came with kdbench: one row a number."""
    literature = load(None if folder is None else Path(folder))
    sources = {name: asdict(source) for name, source in literature.sources.items()}
    return _frame(REPORTED, [{**sources[row.source], **asdict(row)} for row in literature.rows])


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """``rows`` of plain values, which all have the same columns."""
    return pd.DataFrame.from_records(rows)


def _order(row: Record) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("suite", "dataset", "pair", "label", "evidence", "seed", "stream", "file"))


def _flat(row: Record) -> Record:
    """``row`` with what a record does not say in so many words."""
    teacher, _, student = row["pair"].partition(":")
    return {
        **row,
        "teacher_name": None if teacher == NO_TEACHER else teacher,
        "student_name": student,
        "config": canonical(row["config"]).decode(),
        "protocol": canonical(row["identity"].get("protocol")).decode(),
        "recomputed": row["predictions"] is not None,
        "measurements": len(row.get("costs", (row,))),
        "warnings": "\n".join(row["warnings"]),
    }


def _frame(columns: Sequence[Column], rows: Sequence[Record]) -> pd.DataFrame:
    return pd.DataFrame({column.name: _series(column, rows) for column in columns})


def _series(column: Column, rows: Sequence[Record]) -> pd.Series[Any]:
    values = [_typed(_at(row, column.path), column.dtype) for row in rows]
    if column.dtype == TIME:
        return pd.to_datetime(pd.Series(values, dtype=TEXT), utc=True, format="ISO8601", errors="coerce").astype(TIME)
    return pd.Series(values, dtype=column.dtype)


def _at(record: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(name)
    return record


def _typed(value: Any, dtype: str) -> Any:
    """``value`` if a column can hold it: the identity of a record may be anybody's."""
    if dtype in (TEXT, TIME):
        return value if isinstance(value, str) else None
    if dtype == TRUTH:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int if dtype == COUNT else int | float):
        return None
    return value if abs(value) < 2**63 else None
