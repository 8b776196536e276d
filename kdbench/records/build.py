"""The one place where a record is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.methods import METHODS
from kdbench.names import LONGEST_TEXT
from kdbench.records.provenance import provenance
from kdbench.records.store import Record
from kdbench.records.validate import SCHEMA_VERSION
from kdbench.trials.origins import Plugin
from kdbench.trials.trial import Trial

NO_SCORES: dict[str, Any] = {"last": None, "best_val": None, "best_test": None}


def build_record(
    trial: Trial,
    status: str,
    *,
    detail: str = "",
    numerics: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
    teacher: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
    weights_sha256: str | None = None,
    selected_weights_sha256: str | None = None,
    plugins: Sequence[Plugin] = (),
    warnings: Sequence[str] = (),
    attempts: int = 1,
    resumed: int = 0,
    looks: Sequence[int] = (),
    diagnostics: Mapping[str, Any] | None = None,
) -> Record:
    """A record of ``trial``, which ran the code of ``plugins``; what did not come to be (a crash's scores) is null."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "key": trial.key,
        "identity": trial.identity(),
        "suite": trial.suite,
        "dataset": trial.dataset,
        "pair": trial.pair,
        "teacher_model": trial.teacher.model if trial.teacher else None,
        "student_model": trial.student,
        "label": trial.label,
        "method": trial.method,
        "config": dict(trial.config),
        "seed": trial.seed,
        "stream": trial.stream,
        "status": status,
        "detail": _unicode(detail)[:LONGEST_TEXT],
        "evidence": "measured",
        "numerics": None if numerics is None else dict(numerics),
        "scores": dict(scores or NO_SCORES),
        "curve": [dict(point) for point in curve],
        "teacher": None if teacher is None else dict(teacher),
        "cost": None if cost is None else dict(cost),
        "method_card": METHODS.get(trial.method).describe() if trial.method in METHODS else {"name": trial.method},
        "weights_sha256": weights_sha256,
        "selected_weights_sha256": selected_weights_sha256,
        "predictions": None,
        "provenance": provenance(
            plugin_sha256=trial.plugin_sha256,
            plugins=plugins,
            precision=trial.protocol.precision,
            threads=trial.protocol.threads,
            attempts=attempts,
            resumed=resumed,
            looks=looks,
        ),
        "warnings": [_unicode(text)[:LONGEST_TEXT] for text in warnings],
    }
    return record if diagnostics is None else {**record, "diagnostics": dict(diagnostics)}


def _unicode(text: str) -> str:
    """``text``, which may quote a file's name or a library, without what is no character."""
    return text.encode("utf-8", "replace").decode("utf-8")
